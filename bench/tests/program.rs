//! The bench of the program holds every verdict against its row, so a run that ends has measured
//! what it says.

use lictor_bench::program::{self, Extent};

#[test]
fn each_kind_of_packet_is_judged_as_its_row_says() {
    if !lictor_lab::privileged() {
        return;
    }
    let extent = Extent {
        rounds: 2,
        packets: 2_000,
        flows_max: 1_000,
    };
    let report = program::run(extent).expect("every packet is judged as its row says");
    let ids: Vec<_> = report.rows.iter().map(|row| row.id.as_str()).collect();
    let expected = [
        "est-1",
        "est-1k",
        "new",
        "new-1k",
        "new-100k",
        "deny",
        "deny-100k",
    ];
    assert_eq!(ids, expected);
    let lines = report.table().lines().count();
    assert_eq!(lines, expected.len() + 2, "a head, the rows, the floor");
}
