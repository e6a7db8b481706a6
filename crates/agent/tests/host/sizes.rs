//! How many sessions come along with a guest: no number at which something else begins, and what
//! does not fit is said and counted.

use super::*;
use lictor_wire::sessions::CHUNK_RECORDS_MAX;

/// The sessions of one guest with as many peers' ports as it takes.
fn sessions(count: usize) -> Vec<SessionRecord> {
    let one = |number: usize| {
        let mut one = session((number % 60_000) as u16 + 1);
        one.key.local_port = 1_000 + (number / 60_000) as u16;
        one
    };
    (0..count).map(one).collect()
}

/// Brings so many sessions to a vnic with this quota. Gives how many were taken in, how many the
/// kernel has, and what was refused.
fn arrived(quota: u32, count: usize) -> (u64, u64, Vec<(String, u64)>) {
    let mut found = None;
    on_ground(|ground| {
        let config = Config {
            sessions: 1_000_000,
            ..ground.config()
        };
        let mut host = ground.open_as(config);
        host.offer(&ground.approved(1), &ground.bindings_with(quota), 2)
            .expect("works");
        ip("tuntap add dev tap-db mode tap");
        host.attach(&attach("tap-db", "10.1.0.7"), 3)
            .expect("bound");
        let (db, vnic) = (GuestId::new("db").expect("valid"), VnicId(7));
        let mut arrival = Arrival::default();
        let slots: Vec<_> = (0..).zip(sessions(count)).collect();
        for part in slots.chunks(CHUNK_RECORDS_MAX) {
            host.take_in((&db, vnic), &Chunk::of(0, part), &mut arrival)
                .expect("no more than twice the quota");
        }
        assert_eq!(arrival.count(), count as u64);
        let kernel = host.report(4).expect("readable").guests[0].vnics[0].sessions;
        let refused = arrival.refused().into_iter().collect();
        found = Some((arrival.accepted(), kernel, refused));
    });
    found.unwrap_or_default()
}

#[test]
fn trap_2_one_session_or_200000_take_the_same_path() {
    for count in [1, 5_200, 6_000, 200_000] {
        let whole = count as u64;
        let found = arrived(250_000, count);
        if found == Default::default() {
            return;
        }
        assert_eq!(found, (whole, whole, Vec::new()), "{count} sessions");
    }
}

#[test]
fn trap_2_what_does_not_fit_is_refused_by_name_and_counted() {
    const QUOTA: u32 = 1_024;
    let (accepted, kernel, refused) = arrived(QUOTA, 1_500);
    if (accepted, kernel) == (0, 0) {
        return;
    }
    assert_eq!((accepted, kernel), (u64::from(QUOTA), u64::from(QUOTA)));
    let over = 1_500 - u64::from(QUOTA);
    assert_eq!(refused, [("session-table-full".to_owned(), over)]);
}
