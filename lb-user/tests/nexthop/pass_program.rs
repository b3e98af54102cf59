//! An XDP program that passes everything, as an ELF object made by hand, so that these tests need no BPF compiler.

use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;

/// `r0 = XDP_PASS; exit`
const CODE: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
const LICENSE: &[u8] = b"GPL\0";
/// The symbol's name at 1, then the sections'.
const STRINGS: &[u8] = b"\0pass\0xdp\0license\0.symtab\0.strtab\0";
const ELF_HEADER_LEN: usize = 64;

const PROGBITS: u32 = 1;
const SYMTAB: u32 = 2;
const STRTAB: u32 = 3;
const WRITE: u64 = 1;
const ALLOC: u64 = 2;
const EXECINSTR: u64 = 4;

struct Section<'a> {
    name: u32,
    kind: u32,
    flags: u64,
    link: u32,
    info: u32,
    bytes: &'a [u8],
}

/// Attaches it in the calling thread's network namespace, until dropped.
pub fn attach(interface: &str, mode: XdpMode) -> Ebpf {
    let mut ebpf = Ebpf::load(&object()).unwrap();
    let program: &mut Xdp = ebpf.program_mut("pass").unwrap().try_into().unwrap();
    program.load().unwrap();
    program.attach(interface, mode).unwrap();
    ebpf
}

fn object() -> Vec<u8> {
    let name = |text: &[u8]| u32::try_from(STRINGS.windows(text.len()).position(|at| at == text).unwrap()).unwrap();
    // st_name, st_info (global function), st_other, st_shndx, st_value, st_size
    let mut symbols = vec![0; 24];
    symbols.extend(name(b"pass\0").to_le_bytes());
    symbols.extend([0x12, 0, 1, 0]);
    symbols.extend(0u64.to_le_bytes());
    symbols.extend((CODE.len() as u64).to_le_bytes());

    let section = |name, kind, flags, link, info, bytes| Section { name, kind, flags, link, info, bytes };
    let sections = [
        section(0, 0, 0, 0, 0, &[][..]),
        section(name(b"xdp\0"), PROGBITS, ALLOC | EXECINSTR, 0, 0, &CODE),
        section(name(b"license\0"), PROGBITS, ALLOC | WRITE, 0, 0, LICENSE),
        // Names in section 4, one local symbol.
        section(name(b".symtab\0"), SYMTAB, 0, 4, 1, &symbols),
        section(name(b".strtab\0"), STRTAB, 0, 0, 0, STRINGS),
    ];
    let (mut content, mut headers) = (Vec::new(), Vec::new());
    for Section { name, kind, flags, link, info, bytes } in sections {
        content.resize(content.len().next_multiple_of(8), 0);
        let entry_len = if kind == SYMTAB { 24u64 } else { 0 };
        headers.extend([name, kind].map(u32::to_le_bytes).concat());
        headers.extend([flags, 0, (ELF_HEADER_LEN + content.len()) as u64, bytes.len() as u64].map(u64::to_le_bytes).concat());
        headers.extend([link, info].map(u32::to_le_bytes).concat());
        headers.extend([8, entry_len].map(u64::to_le_bytes).concat());
        content.extend(bytes);
    }
    content.resize(content.len().next_multiple_of(8), 0);

    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    // Relocatable, for BPF, version 1.
    elf.extend([1, 0, 247, 0, 1, 0, 0, 0]);
    elf.extend([0, 0, (ELF_HEADER_LEN + content.len()) as u64].map(u64::to_le_bytes).concat());
    elf.extend(0u32.to_le_bytes());
    // Sizes and numbers: this header, program headers (none), section headers, and which section has their names.
    elf.extend([64u16, 0, 0, 64, 5, 4].map(u16::to_le_bytes).concat());
    elf.extend(content);
    elf.extend(headers);
    elf
}
