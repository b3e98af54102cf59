//! The fuzzers' targets without a fuzzer: everything that one ever found, and for some seconds random changes of it.
//!
//! `XLB_FUZZ_SECONDS` says how long for each target; `XLB_SEED` repeats a run. `cargo xtask fuzz` is for long runs.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's support stops the test when a case is wrong"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use xlb_tests::fuzz::{TARGETS, Target, seeds};

const SECONDS: u64 = 10;
const LEN_MAX: usize = 2_000;
/// Inputs grow by this at most with one change.
const GROWTH_MAX: usize = 16;

#[test]
fn packet() {
    replay_and_go_on(0);
}

#[test]
fn config() {
    replay_and_go_on(1);
}

#[test]
fn tables() {
    replay_and_go_on(2);
}

fn replay_and_go_on(number: usize) {
    let target = &TARGETS[number];
    let corpus = corpus(target);
    corpus.iter().for_each(|input| (target.run)(input));

    let seed = number_from("XLB_SEED").unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    let limit = Duration::from_secs(number_from("XLB_FUZZ_SECONDS").unwrap_or(SECONDS));
    let mut rng_seed = [0; 32];
    rng_seed[..8].copy_from_slice(&seed.to_le_bytes());
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &rng_seed);
    let start = Instant::now();
    let mut n_inputs = 0u64;
    while start.elapsed() < limit {
        let input = mutated(&corpus, &mut rng);
        let shown_if_it_panics = Shown(seed, &input);
        (target.run)(&input);
        drop(shown_if_it_panics);
        n_inputs += 1;
    }
    assert!(n_inputs > 0);
}

/// What is committed, and what is made of the cases of today.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target.name);
    let files = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    // The order decides what a seed leads to.
    files.sort();
    let found = files.iter().map(|file| std::fs::read(file).unwrap());
    found.chain(seeds(target.name).into_iter().map(|(_, seed)| seed)).collect()
}

/// One of the inputs with a few changes: bytes, cuts, insertions, and the end of another.
fn mutated(corpus: &[Vec<u8>], rng: &mut TestRng) -> Vec<u8> {
    let mut input = corpus[below(rng, corpus.len())].clone();
    for _ in 0..=below(rng, 6) {
        let at = below(rng, input.len() + 1);
        match below(rng, 6) {
            0 => input.truncate(at),
            1 => {
                let new: Vec<u8> = (0..=below(rng, GROWTH_MAX)).map(|_| rng.next_u32() as u8).collect();
                drop(input.splice(at..at, new));
            }
            2 => {
                let other = &corpus[below(rng, corpus.len())];
                let from = below(rng, other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            3 if at < input.len() => drop(input.remove(at)),
            4 if at < input.len() => input[at] ^= 1 << below(rng, 8),
            _ if at < input.len() => input[at] = rng.next_u32() as u8,
            _ => {}
        }
    }
    input.truncate(LEN_MAX);
    input
}

fn below(rng: &mut TestRng, n: usize) -> usize {
    rng.next_u64() as usize % n
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Prints a seed and an input, to be repeated, if dropped by a panic.
struct Shown<'a>(u64, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.1.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("XLB_SEED={}, and this input: {hex}", self.0);
        }
    }
}
