//! How much stack a BPF program takes, as the verifier adds it up along its calls.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context, Result};
use aya_obj::Object;
use aya_obj::generated::bpf_insn;

/// What the verifier grants a program and all that it calls, in bytes.
pub const STACK_MAX: usize = 512;
/// Kernels have rounded the stack of each function up to this, in bytes; newer ones round less.
pub const ROUNDED_TO: usize = 32;

const FRAME_POINTER: u8 = 10;
const CALL: u8 = 0x85;
/// A call's source if it calls a function of the program, not the kernel's (`BPF_PSEUDO_CALL`).
const OF_PROGRAM: u8 = 1;
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
/// Of a code: its class, of which these take an address.
const CLASS: u8 = 7;
const LOAD: u8 = 1;
const STORES: [u8; 2] = [2, 3];
/// An instruction of twice the length, which loads 64 bits.
const WIDE: u8 = 0x18;

/// The stacks of the functions along the chain of calls that takes most, in bytes, neither rounded nor added up.
///
/// # Errors
/// It is no object of BPF programs, or has none of this name.
pub fn deepest(object: &[u8], program: &str) -> Result<Vec<usize>> {
    let mut object = Object::parse(object)?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections)?;
    let key = object.programs.get(program).with_context(|| format!("no program {program}"))?.function_key();
    let code = &object.functions.get(&key).context("a program without a function")?.instructions;
    Ok(Functions::of(code).deepest(0))
}

/// What a chain takes where each function's stack is rounded up to so much; one without any has one too.
pub fn total(chain: &[usize], rounded_to: usize) -> usize {
    chain.iter().map(|stack| (*stack).max(1).next_multiple_of(rounded_to)).sum()
}

/// The functions of a linked program, by their first instruction.
struct Functions(BTreeMap<usize, Function>);

#[derive(Default)]
struct Function {
    stack: usize,
    calls: BTreeSet<usize>,
}

impl Functions {
    fn of(code: &[bpf_insn]) -> Self {
        let calls = code.iter().enumerate().filter(|(_, it)| it.code == CALL && it.src_reg() == OF_PROGRAM);
        let calls: Vec<(usize, usize)> = calls.map(|(at, it)| (at, (at as i64 + 1 + i64::from(it.imm)) as usize)).collect();
        let entries: BTreeSet<usize> = calls.iter().map(|(_, target)| *target).chain([0]).collect();
        let mut functions = BTreeMap::new();
        for &entry in &entries {
            let end = entries.range(entry + 1..).next().copied().unwrap_or(code.len());
            let calls = calls.iter().filter(|(at, _)| (entry..end).contains(at)).map(|(_, target)| *target).collect();
            functions.insert(entry, Function { stack: stack(&code[entry..end]), calls });
        }
        Self(functions)
    }

    fn deepest(&self, entry: usize) -> Vec<usize> {
        let Function { stack, calls } = &self.0[&entry];
        let below = calls.iter().map(|&call| self.deepest(call)).max_by_key(|chain| total(chain, ROUNDED_TO));
        [vec![*stack], below.unwrap_or_default()].concat()
    }
}

/// How far below its frame pointer a function reaches, by itself or by an address that it makes.
fn stack(code: &[bpf_insn]) -> usize {
    let mut copies = [false; 16];
    let mut lowest = 0;
    let mut is_second_half = false;
    for it in code {
        if std::mem::take(&mut is_second_half) {
            continue;
        }
        is_second_half = it.code == WIDE;
        let (to, from) = (it.dst_reg(), it.src_reg());
        let class = it.code & CLASS;
        let reached = match class {
            LOAD if from == FRAME_POINTER => i32::from(it.off),
            class if STORES.contains(&class) && to == FRAME_POINTER => i32::from(it.off),
            _ if it.code == ADD && copies[usize::from(to)] => it.imm,
            _ => 0,
        };
        lowest = lowest.min(reached);
        if !STORES.contains(&class) {
            copies[usize::from(to)] = it.code == MOVE && from == FRAME_POINTER;
        }
    }
    usize::try_from(-lowest).unwrap_or(0)
}
