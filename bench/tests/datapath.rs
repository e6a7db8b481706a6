//! The bench of the data plane, with counts that measure nothing: every topology stands, carries
//! and refuses what it must, and every part ends with a result.

use lictor_bench::datapath::goals::Measured;
use lictor_bench::datapath::load::{self, Load};
use lictor_bench::datapath::path::{self, Packet};
use lictor_bench::datapath::plant::Plant;
use lictor_bench::datapath::sample::Samples;
use lictor_bench::datapath::{flood, footprint, topologies, transfer};
use lictor_bench::injector::Injector;
use lictor_lab::{Lab, privileged};
use std::time::Duration;

const PATH: path::Extent = path::Extent {
    rounds: 1,
    packets: 2_000,
    repeats: 1,
    misses: 2_000,
};

#[test]
fn every_topology_carries_and_refuses_what_it_must() {
    if !privileged() {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut injector = Injector::load().expect("loads");
    let plants: Vec<Plant> = topologies::ALL
        .iter()
        .map(|topology| Plant::build(&lab, topology).expect(topology.id))
        .collect();
    for plant in &plants {
        plant.open_path(&injector).expect(plant.topology.id);
    }
    let mut measured = Measured::default();
    path::rounds(
        &plants,
        &mut injector,
        (PATH, &Packet::USUAL),
        &mut measured.path,
    )
    .expect("each packet goes where its topology says");
    for plant in &plants {
        plant.close_path().expect(plant.topology.id);
    }
    let extent = load::Extent {
        rounds: 1,
        repeats: 1,
        lasting: Duration::from_millis(20),
    };
    load::rounds(&plants, &Load::ALL, extent, &mut measured.loads)
        .expect("every load gets through");
    for topology in &topologies::ALL {
        for kind in Packet::USUAL {
            let values = measured.path.values(topology.id, &kind.id());
            assert_eq!(values.len(), 1, "{} {}", topology.id, kind.id());
        }
        for load in Load::ALL {
            let values = measured.loads.values(topology.id, load.id());
            assert_eq!(values.len(), 1, "{} {}", topology.id, load.id());
        }
    }
    let goals = measured.goals().into_iter();
    let valued: Vec<_> = goals
        .filter(|goal| goal.value.is_some())
        .map(|goal| goal.id)
        .collect();
    let expected = "est-one est-both steered new new-1k new-100k deny udp rr crr";
    assert_eq!(valued.join(" "), expected);
}

/// A guard that has lost its rules lets a denied packet through, and that is no figure.
#[test]
fn a_packet_that_arrives_against_the_rules_ends_the_bench() {
    if !privileged() {
        return;
    }
    let lab = Lab::new().expect("a lab");
    let mut injector = Injector::load().expect("loads");
    let nft = topologies::ALL
        .iter()
        .find(|topology| topology.id == topologies::NFT_10)
        .expect("one of them");
    let plant = Plant::build(&lab, nft).expect("builds");
    let mut flush = plant.hypervisor.command("nft");
    flush.args(["flush", "ruleset"]);
    lictor_lab::site::command::output(flush).expect("flushes");
    plant.open_path(&injector).expect("opens");
    let mut samples = Samples::default();
    let error = path::rounds(
        &[plant],
        &mut injector,
        (PATH, &Packet::USUAL),
        &mut samples,
    )
    .expect_err("denied packets arrive");
    let text = format!("{error:#}");
    assert!(text.contains("nft-10, deny"), "{text}");
    assert!(text.contains("+2000 packets"), "{text}");
}

#[test]
fn sessions_go_both_ways_on_both_sides() {
    if !privileged() {
        return;
    }
    let measured = Measured {
        transfer: transfer::rounds(1).expect("every session arrives"),
        ..Measured::default()
    };
    let goals = measured.goals().into_iter();
    let valued: Vec<_> = goals.filter(|goal| goal.value.is_some()).collect();
    assert_eq!(valued.len(), 2, "{valued:?}");
}

#[test]
fn a_flood_is_a_flood() {
    if !privileged() {
        return;
    }
    let extent = flood::Extent {
        established: 20,
        quotas: 2,
        genuine: 20,
    };
    let outcome = flood::run(extent).expect("the flood gets in");
    assert_eq!(outcome.established, 20);
    assert_eq!(outcome.lost, 0, "{outcome:?}");
    assert!(outcome.tried >= 20 && outcome.succeeded > 0, "{outcome:?}");
    assert!(outcome.flood > u64::from(outcome.quota), "{outcome:?}");
}

#[test]
fn memory_and_restart_have_figures() {
    if !privileged() {
        return;
    }
    let memory = footprint::memory(20_000).expect("the kernel tells");
    assert!(
        memory.idle_bytes > 0 && memory.idle_bytes < memory.default_bytes,
        "{memory:?}"
    );
    let restart = footprint::restart(3).expect("three vnics are found again");
    assert_eq!(restart.vnics, 3);
}
