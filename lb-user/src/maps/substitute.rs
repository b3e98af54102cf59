//! What stands in the program for instructions that an older kernel does not know.
//!
//! Each is one instruction for one, in the object before it is loaded: the packet path is written for the newest of them, and
//! costs nothing more there. A flag in read-only data would not do, since old verifiers refuse atomics in dead code too.

use std::borrow::Cow;

use aya::util::KernelVersion;
use object::{Object, ObjectSection, SectionKind};

/// The first with links to XDP programs, by which one daemon hands an interface to the next.
pub const OLDEST: KernelVersion = KernelVersion::new(5, 9, 0);

const CALL: u8 = 0x85;
const KTIME_GET_NS: i32 = 5;
const KTIME_GET_COARSE_NS: i32 = 160;
const XDP_GET_BUFF_LEN: i32 = 188;

/// Section of a program that takes packets in several buffers, as the object's string tables have it.
const FRAGS_SECTION: &[u8] = b"xdp.frags\0";

/// One feature of the program, and how it does without.
pub struct Substitute {
    /// The first kernel that has it, major and minor version.
    pub since: (u8, u8),
    pub lacking: &'static str,
    apply: fn(&mut [u8]),
}

const SUBSTITUTES: &[Substitute] = &[
    Substitute {
        since: (5, 11),
        lacking: "the coarse clock: the precise one is read instead, a few hundred times a second",
        // Of the same clock, CLOCK_MONOTONIC: records that either wrote can be compared.
        apply: |object| replace(object, helper(KTIME_GET_COARSE_NS), helper(KTIME_GET_NS)),
    },
    Substitute {
        since: (5, 12),
        lacking: "atomic exchange: of two flows that are recorded in one place at once, one may be forgotten",
        apply: |object| {
            each_instruction(object, |instruction| {
                // `r0 = cmpxchg_64(dst + offset, r0, src)` becomes `*(u64 *)(dst + offset) = src`, which leaves in r0 what was
                // expected: that is success.
                if let [opcode @ 0xdb, _, _, _, exchange @ 0xf1, 0, 0, 0] = instruction {
                    (*opcode, *exchange) = (0x7b, 0);
                }
            });
        },
    },
    Substitute {
        since: (5, 18),
        lacking: "packets over several buffers: interfaces with an MTU beyond about 3,500 take generic mode only",
        apply: |object| {
            // The length of all buffers, when the first one is shorter than the packet: `r0 = 0`, so that it is truncated.
            replace(object, helper(XDP_GET_BUFF_LEN), [0xb7, 0, 0, 0, 0, 0, 0, 0]);
            // The section's name is what makes the loader ask for such packets. It ends before the dot now, here and in BTF.
            while let Some(at) = object.windows(FRAGS_SECTION.len()).position(|bytes| bytes == FRAGS_SECTION) {
                object[at + b"xdp".len()] = 0;
            }
        },
    },
];

/// What a kernel lacks of all that the program would use.
pub fn lacking(kernel: KernelVersion) -> impl Iterator<Item = &'static Substitute> {
    SUBSTITUTES.iter().filter(move |substitute| kernel < KernelVersion::new(substitute.since.0, substitute.since.1, 0))
}

/// The object as a kernel can load it. One that is no ELF object is left to the loader to complain about.
pub fn for_kernel(object: &[u8], kernel: KernelVersion) -> Cow<'_, [u8]> {
    let mut object = Cow::Borrowed(object);
    lacking(kernel).for_each(|substitute| (substitute.apply)(object.to_mut()));
    object
}

fn helper(number: i32) -> [u8; 8] {
    let [a, b, c, d] = number.to_le_bytes();
    [CALL, 0, 0, 0, a, b, c, d]
}

fn replace(object: &mut [u8], from: [u8; 8], to: [u8; 8]) {
    each_instruction(object, |instruction| {
        if *instruction == from {
            *instruction = to;
        }
    });
}

/// Visits the instructions of all programs. The second half of a long one is visited too, but begins with a zero, as no
/// instruction does.
fn each_instruction(object: &mut [u8], mut visit: impl FnMut(&mut [u8; 8])) {
    let Ok(file) = object::File::parse(&*object) else { return };
    let programs = file.sections().filter(|section| section.kind() == SectionKind::Text);
    let ranges: Vec<_> = programs.filter_map(|section| section.file_range()).collect();
    for (start, len) in ranges {
        let Some(program) = object.get_mut(start as usize..(start + len) as usize) else { continue };
        program.as_chunks_mut().0.iter_mut().for_each(&mut visit);
    }
}
