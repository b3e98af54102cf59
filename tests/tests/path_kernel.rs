//! The table of packet cases in the kernel, through BPF_PROG_TEST_RUN: the verifier accepts the program, and it does what the
//! host build does.

use xlb_tests::path::cases;
use xlb_tests::path::kernel::{Kernel, action};

#[test]
#[ignore = "needs root and the BPF object; run by cargo xtask test"]
fn every_packet_ends_in_the_kernel_as_its_case_says() {
    let kernel = Kernel::new().unwrap();
    let mut wrong = Vec::new();
    for case in cases::all() {
        let ran = kernel.run(&case.packet, kernel.interfaces.outside).unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
        if ran.verdict != case.verdict {
            wrong.push(format!("{}: {:?}, expected {:?}", case.name, ran.verdict, case.verdict));
        } else if ran.action != action(case.verdict) {
            wrong.push(format!("{}: action {}, expected {}", case.name, ran.action, action(case.verdict)));
        } else if ran.frame != case.frame {
            wrong.push(format!("{}:\n  got      {:02x?}\n  expected {:02x?}", case.name, ran.frame, case.frame));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
