//! Packets as nobody would send them: whatever comes, the packet path keeps its word about verdicts, bytes and checksums, and
//! the kernel does what the host does. `PROPTEST_CASES` says how often.

mod flows;
mod host;
mod kernel;
mod mutation;
