//! What owners chose for the case that protection is impaired, on a real kernel.

use super::*;
use lictor_datapath::proof_frame;
use std::time::Duration;

const DB: VnicId = VnicId(7);
/// More than the lease of the configuration.
const LONG: Duration = Duration::from_secs(31);

fn db() -> GuestId {
    GuestId::new("db").expect("valid")
}

/// A host with the guest's vnic open under one choice, and another look at its kernel.
struct Chosen<'a> {
    ground: &'a Ground,
    choice: &'static str,
    host: Host,
    kernel: Datapath,
}

impl<'a> Chosen<'a> {
    fn new(ground: &'a Ground, choice: &'static str) -> Self {
        ip("tuntap add dev tap-db mode tap");
        let host = ground.open();
        let kernel = Datapath::open(&ground.path("bpf")).expect("opens");
        let mut chosen = Self {
            ground,
            choice,
            host,
            kernel,
        };
        assert_eq!(chosen.offer(1, &ground.bindings()), Offered::Loaded);
        let attached = chosen.host.attach(&attach("tap-db", "10.1.0.10"), 3);
        attached.expect("bound");
        let opened = chosen.host.set_state(&db(), VnicState::Open, "it runs");
        assert_eq!(opened.expect("works").len(), 1);
        chosen.kernel = Datapath::open(&ground.path("bpf")).expect("opens");
        chosen
    }

    fn release(&self, generation: u64) -> Envelope {
        let policy = format!("{POLICY}{}\n", self.choice);
        let mut envelope = self.ground.release_of(&policy, generation);
        envelope
            .add_signature(&self.ground.approver)
            .expect("another key");
        envelope
    }

    fn offer(&mut self, generation: u64, log: &BindingLog) -> Offered {
        let release = self.release(generation);
        self.host.offer(&release, log, 2).expect("works")
    }

    /// What the heartbeat finds.
    fn beat(&mut self) -> Vec<String> {
        let found = self.host.heartbeat(4).expect("works");
        found.into_iter().map(|one| one.detail).collect()
    }

    /// Expects "deny unproven" of a packet that somebody sends.
    fn check(&self, probe: &str, expected: &str) {
        let probe: Probe = probe.parse().expect("a probe");
        let mac = "52:54:00:00:00:07".parse().expect("valid");
        let frame = proof_frame(&probe, mac, Direction::Ingress);
        let found = self
            .kernel
            .test_run(DB, Direction::Ingress, &frame)
            .expect("runs");
        assert_eq!(
            format!("{} {}", found.verdict, found.reason),
            expected,
            "{probe}"
        );
    }
}

#[test]
fn trap_6_without_a_proven_verdict_no_session_begins_if_the_owner_chose_so() {
    on_ground(|ground| {
        let choice = "when engine-hung for app:db choose block-new-sessions owner \"o@test\"";
        let mut chosen = Chosen::new(ground, choice);
        assert_eq!(chosen.beat(), Vec::<String>::new());
        chosen.check("tcp 198.51.100.1:1 > 10.1.0.10:80", "allow policy-allow");
        chosen.kernel.advance_clock(DB, LONG).expect("sets");
        chosen.check("tcp 198.51.100.1:2 > 10.1.0.10:80", "deny unproven");
        let found = chosen.beat();
        assert!(
            found[0].contains("nobody had proven its verdicts for"),
            "{found:?}"
        );
        assert_eq!(chosen.beat(), Vec::<String>::new());
        chosen.check("tcp 198.51.100.1:3 > 10.1.0.10:80", "allow policy-allow");

        // The kernel decides by other tables than those that were approved.
        let mut tables = chosen.kernel.read_back().expect("reads");
        tables.decisions.clear();
        chosen.kernel.load(&tables).expect("loads");
        let found = chosen.beat();
        assert!(
            found[0].contains("the program says default-deny by rule 0, the plan"),
            "{found:?}"
        );
        chosen.kernel.advance_clock(DB, LONG).expect("sets");
        chosen.beat();
        assert!(chosen.kernel.lease_over(DB).expect("reads").is_some());
        chosen.host.reconcile(5).expect("repairs");
        assert!(chosen.beat()[0].contains("nobody had proven"));
        chosen.check("tcp 198.51.100.1:4 > 10.1.0.10:80", "allow policy-allow");
    });
}

#[test]
fn by_default_sessions_begin_whether_or_not_anybody_proves_verdicts() {
    on_ground(|ground| {
        let mut chosen = Chosen::new(ground, "");
        assert_eq!(chosen.beat(), Vec::<String>::new());
        chosen.kernel.advance_clock(DB, LONG).expect("sets");
        chosen.check("tcp 198.51.100.1:1 > 10.1.0.10:80", "allow policy-allow");
        assert_eq!(chosen.beat(), Vec::<String>::new());
    });
}

#[test]
fn under_a_stale_release_no_session_begins_if_the_owner_chose_so() {
    on_ground(|ground| {
        let choice = "when release-stale for app:db choose block-new-sessions owner \"o@test\"";
        let mut chosen = Chosen::new(ground, choice);
        chosen.beat();
        chosen.check("tcp 198.51.100.1:1 > 10.1.0.10:80", "allow policy-allow");
        // Signed by two, newer, and its bindings do not hold together.
        let refused = chosen.offer(2, &BindingLog::default());
        assert!(matches!(refused, Offered::Refused(_)), "{refused:?}");
        let why = chosen.host.stale(4).expect("known");
        assert!(why.contains("release 2 is known and 1 decides"), "{why}");
        assert!(why.contains("1 binding(s) refused"), "{why}");
        chosen.beat();
        chosen.check("tcp 198.51.100.1:2 > 10.1.0.10:80", "deny stale");
        let mut log = ground.bindings();
        log.attestations
            .extend(chosen.host.missing_attestations(&log));
        assert_eq!(chosen.offer(2, &log), Offered::Loaded);
        assert_eq!(chosen.host.stale(4), None);
        chosen.beat();
        chosen.check("tcp 198.51.100.1:3 > 10.1.0.10:80", "allow policy-allow");
    });
}

#[test]
fn while_no_witness_calls_the_release_the_newest_no_session_begins_if_the_owner_chose_so() {
    on_ground(|ground| {
        let witness = fresh::witness(ground);
        let choice = "when release-stale for app:db choose block-new-sessions owner \"o@test\"";
        let mut chosen = Chosen::new(ground, choice);
        chosen.beat();
        chosen.check("tcp 198.51.100.1:1 > 10.1.0.10:80", "deny stale");
        let said = fresh::said(&chosen.release(1), &witness, 4);
        chosen.host.witness(&said).expect("counts");
        chosen.beat();
        chosen.check("tcp 198.51.100.1:2 > 10.1.0.10:80", "allow policy-allow");
    });
}

#[test]
fn sessions_that_were_lost_are_taken_up_if_the_owner_chose_so() {
    on_ground(|ground| {
        let choice = "when state-lost for app:db choose adopt owner \"o@test\"";
        let mut chosen = Chosen::new(ground, choice);
        let goes_on = "tcp 198.51.100.1:1 > 10.1.0.10:80 ack";
        chosen.check(goes_on, "deny no-session");
        chosen.host.lost_sessions(&db(), 4).expect("works");
        chosen.check(goes_on, "allow adopted");
        chosen.check("tcp 198.51.100.1:1 > 10.1.0.10:81 ack", "deny no-session");
        // The time of a heartbeat is that of the host, not of the vnic.
        let found = chosen.host.heartbeat(4 + 121_000).expect("works");
        assert!(found.is_empty(), "{found:?}");
        chosen.check("tcp 198.51.100.1:2 > 10.1.0.10:80 ack", "deny no-session");
    });
}

#[test]
fn a_control_is_healthy_while_it_answers() {
    on_ground(|ground| {
        let socket = ground.path("ids");
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("listens");
        let config = Config {
            controls: vec![lictor_agent::Control {
                name: "ids".into(),
                provider: "suricata".into(),
                version: "7".into(),
                probe: lictor_agent::ControlProbe::Socket {
                    path: socket,
                    say: None,
                    expect: None,
                },
            }],
            round_ms: 50,
            ..ground.config()
        };
        let host = ground.open_as(config);
        let healthy = |wanted: bool| {
            (0..1_000).any(|_| {
                std::thread::sleep(Duration::from_millis(10));
                let controls = host.controls().expect("reads");
                let ids = controls.iter().find(|one| one.control == "ids");
                ids.is_some_and(|one| one.healthy == wanted)
            })
        };
        assert!(healthy(true), "it listens");
        drop(listener);
        assert!(healthy(false), "nobody listens any more");
    });
}
