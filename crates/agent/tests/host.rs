//! The agent's core on a real kernel: a tap, the loaded program, a state directory that survives.

use lictor_agent::state::{self, StateDir};
use lictor_agent::{AgentError, Arrival, Config, Host, Offered};
use lictor_datapath::{Datapath, VnicSpec, mount_bpffs};
use lictor_evidence::{Body, Entry, KeyName};
use lictor_policy::evaluate::{Question, evaluate};
use lictor_policy::{CompileInput, Date, End, Labels, compile, parse};
use lictor_types::{
    Counted, DeploymentId, Direction, Epoch, Generation, GuestId, HostId, Link, Mode, Probe,
    RULES_PER_VNIC_MAX, Reason, RuleId, Segment, SessionKey, SessionRecord, Tally, TcpEnd,
    TcpState, Timeouts, Verdict, VnicId, VnicState,
};
use lictor_wire::binding::BindingLog;
use lictor_wire::local::Attach;
use lictor_wire::sessions::Chunk;
use lictor_wire::{
    Binding, Delegation, Envelope, Release, RosterHost, SigningKey, Trust, VnicBinding,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "host/choices.rs"]
mod choices;
#[path = "host/fresh.rs"]
mod fresh;
#[path = "host/sizes.rs"]
mod sizes;

const POLICY: &str = "policy \"test\" version 1\n\
    label app : string required\n\
    service web = tcp/80\n\
    tier app unordered allow-only owner \"ops@test\" {\n\
      allow in { from any to app:db service web justification \"test\" expires 2030-01-01 }\n\
    }\n";

/// A thread of its own in a network namespace of its own, and a BPF file system in a temporary
/// folder.
struct Ground {
    folder: tempfile::TempDir,
    author: SigningKey,
    approver: SigningKey,
    owner: SigningKey,
    agent: SigningKey,
}

impl Drop for Ground {
    fn drop(&mut self) {
        let bpf = self.folder.path().join("bpf");
        if let Err(error) = nix::mount::umount2(&bpf, nix::mount::MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", bpf.display());
        }
    }
}

fn on_ground(test: impl FnOnce(&Ground) + Send) {
    if !nix::unistd::geteuid().is_root() {
        assert!(
            std::env::var("LICTOR_SKIP_PRIVILEGED").is_ok_and(|value| value == "1"),
            "this test needs root; run it as root, or set LICTOR_SKIP_PRIVILEGED=1 to leave it out"
        );
        eprintln!("SKIPPED: this test needs root and LICTOR_SKIP_PRIVILEGED=1 is set");
        return;
    }
    let body = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may unshare");
        let ground = Ground::new();
        test(&ground);
    };
    let joined = std::thread::scope(|scope| scope.spawn(body).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn key(name: &str) -> SigningKey {
    SigningKey::generate(KeyName::new(name).expect("valid"), &mut rand::thread_rng())
}

fn labels() -> Labels {
    Labels::from([("app".to_owned(), "db".to_owned())])
}

fn host_name() -> HostId {
    HostId::new("a").expect("valid")
}

fn deployment() -> DeploymentId {
    DeploymentId::new("test").expect("valid")
}

fn ip(words: &str) {
    run("ip", words);
}

fn run(program: &str, words: &str) {
    let output = Command::new(program)
        .args(words.split(' '))
        .output()
        .expect("the program is installed");
    assert!(
        output.status.success(),
        "{program} {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        mount_bpffs(&folder.path().join("bpf")).expect("a BPF file system can be mounted");
        let ground = Self {
            folder,
            author: key("author"),
            approver: key("approver"),
            owner: key("owner"),
            agent: key("agent-a"),
        };
        let state = StateDir::new(&ground.path("state"));
        let trust = Trust {
            deployment: deployment(),
            authors: vec![ground.author.verify_key()],
            approvers: vec![ground.approver.verify_key()],
            approvals_required: 1,
            manager: ground.author.verify_key(),
            freshness: None,
        };
        state.write_json(state::TRUST, &trust).expect("written");
        state
            .write(state::KEY, ground.agent.to_private_text().as_bytes())
            .expect("written");
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self) -> Host {
        self.open_as(self.config())
    }

    fn open_as(&self, config: Config) -> Host {
        unlocked(|| Host::open(config.clone(), 1)).expect("the host opens")
    }

    fn config(&self) -> Config {
        Config {
            host: host_name(),
            state_dir: self.path("state"),
            run_dir: self.path("run"),
            qemu_group: None,
            pin_root: self.path("bpf"),
            peer: "127.0.0.1:7443".parse().expect("valid"),
            manager: None,
            round_ms: 1_000,
            copy_rest_ms: 100,
            lease_s: 30,
            manager_silence_s: 60,
            controls: Vec::new(),
            timeouts: Timeouts::default(),
            host_device: None,
            steering: true,
            peer_format: None,
            sessions: 100_000,
        }
    }

    /// Takes a program off the device, as an administrator can: its link with its pin, or the
    /// filters of both directions with their qdisc.
    fn unhook(&self) {
        if !has_tcx() {
            return run("tc", "qdisc del dev tap-db clsact");
        }
        let link = layout(&self.path("bpf")).join("vnics/7/link_from_guest");
        std::fs::remove_file(link).expect("the link is pinned there");
        // The kernel lets go of a link a moment after its last pin.
        let datapath = Datapath::open(&self.path("bpf")).expect("opens");
        let attached = || {
            datapath
                .verify_hooks(VnicId(7))
                .expect("reads")
                .egress
                .attached
        };
        let gone = (0..1_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            !attached()
        });
        assert!(gone, "the link outlives its last pin");
    }

    /// With the first release and the bindings loaded.
    fn open_loaded(&self) -> Host {
        let mut host = self.open();
        host.offer(&self.approved(1), &self.bindings(), 2)
            .expect("works");
        host
    }

    /// With the tap of db attached, too.
    fn open_with_db(&self) -> Host {
        ip("tuntap add dev tap-db mode tap");
        let mut host = self.open_loaded();
        host.attach(&attach("tap-db", "10.1.0.10"), 3)
            .expect("bound");
        host
    }

    fn release(&self, generation: u64) -> Envelope {
        self.release_of(POLICY, generation)
    }

    fn release_of(&self, text: &str, generation: u64) -> Envelope {
        let (policy, diagnostics) = parse("test.lictor", text.as_bytes());
        let policy = policy.unwrap_or_else(|| panic!("{diagnostics:?}"));
        let date = Date::new(2026, 11, 24).expect("a day");
        let input = CompileInput {
            label_sets: vec![labels()],
            date,
        };
        Release {
            format: 1,
            deployment: deployment(),
            generation: Generation(generation),
            created_ms: 1,
            policy: compile(&policy, &input).expect("compiles"),
            roster: vec![RosterHost {
                host: host_name(),
                cluster: "main".into(),
                key: self.agent.verify_key(),
                peer: "127.0.0.1:7443".parse().expect("valid"),
            }],
            delegations: vec![Delegation {
                key: self.owner.verify_key(),
                labels: vec![labels()],
                guests_max: 4,
                prefixes: vec!["10.1.0.0/16".parse().expect("valid")],
                segments: vec![Segment(1)],
            }],
            proved: None,
        }
        .sign(&self.author)
    }

    fn approved(&self, generation: u64) -> Envelope {
        let mut envelope = self.release(generation);
        envelope.add_signature(&self.approver).expect("another key");
        envelope
    }

    fn bindings(&self) -> BindingLog {
        self.bindings_with(1_024)
    }

    fn bindings_with(&self, sessions_max: u32) -> BindingLog {
        let binding = self.binding(sessions_max);
        BindingLog {
            bindings: vec![binding.sign(&self.owner)],
            attestations: Vec::new(),
        }
    }

    fn bindings_isolated(&self, expires: Date) -> BindingLog {
        let isolated = Some(lictor_wire::Isolation {
            owner: "soc@example.com".into(),
            justification: "INC-4711".into(),
            expires,
        });
        let epoch = Epoch(2);
        let binding = Binding {
            epoch,
            isolated,
            ..self.binding(1_024)
        };
        BindingLog {
            bindings: vec![binding.sign(&self.owner)],
            attestations: Vec::new(),
        }
    }

    fn binding(&self, sessions_max: u32) -> Binding {
        Binding {
            deployment: deployment(),
            epoch: Epoch(1),
            guest: GuestId::new("db").expect("valid"),
            labels: labels(),
            vnics: vec![VnicBinding {
                vnic: VnicId(7),
                name: "tap-db".parse().expect("valid"),
                mac: "52:54:00:00:00:07".parse().expect("valid"),
                segment: Segment(1),
                sessions_max,
                link: lictor_wire::LinkBinding::default(),
            }],
            hosts: Vec::new(),
            retired: false,
            isolated: None,
        }
    }
}

/// A child that another test's thread is about to start holds whatever was open when it was forked,
/// the lock of a state directory too, until it has become its program.
fn unlocked<T>(open: impl Fn() -> Result<T, AgentError>) -> Result<T, AgentError> {
    let locked = |found: &Result<T, AgentError>| {
        let Err(AgentError::File { path, .. }) = found else {
            return false;
        };
        path.ends_with("lock")
    };
    let mut found = open();
    for _ in 0..1_000 {
        if !locked(&found) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
        found = open();
    }
    found
}

fn attach(device: &str, address: &str) -> Attach {
    Attach {
        device: device.into(),
        name: None,
        qmp: None,
        addresses: vec![address.parse().expect("valid")],
        more: Vec::new(),
        incoming: false,
    }
}

fn bodies(host: &mut Host) -> Vec<Body> {
    let batch = host.evidence_from(0).expect("readable").expect("not empty");
    let parse = |text: &String| serde_json::from_str::<Entry>(text).expect("an entry").body;
    batch.entries.iter().map(parse).collect()
}

fn count(host: &mut Host, wanted: fn(&Body) -> bool) -> usize {
    bodies(host).into_iter().filter(wanted).count()
}

#[test]
fn a_bound_vnic_opens_with_what_two_persons_signed_and_stays_open_without_the_agent() {
    on_ground(|ground| {
        ip("tuntap add dev tap-db mode tap");
        let mut host = ground.open();
        let offered = host
            .offer(&ground.approved(1), &ground.bindings(), 2)
            .expect("works");
        assert_eq!(offered, Offered::Loaded);
        let attached = host
            .attach(&attach("tap-db", "10.1.0.10"), 3)
            .expect("bound");
        assert_eq!(
            (attached.vnic, attached.state),
            (VnicId(7), VnicState::Hold)
        );
        let guest = GuestId::new("db").expect("valid");
        let opened = host
            .set_state(&guest, VnicState::Open, "it runs")
            .expect("works");
        assert_eq!(opened.len(), 1);
        assert!(attached.before_first_packet);
        let report = host.report(4).expect("readable");
        assert_eq!(report.generation, Generation(1));
        assert_eq!(report.tables_expected, report.tables_found);
        assert!(report.hooks_ok && report.controls[0].healthy);
        assert_eq!(report.guests[0].vnics[0].addresses.len(), 1);
        drop(host);

        let mut host = ground.open();
        let again = host.report(5).expect("readable");
        assert_eq!(again.tables_found, report.tables_found);
        assert_eq!(again.guests[0].vnics[0].state, VnicState::Open);
        assert_eq!(
            count(&mut host, |body| matches!(body, Body::AgentStarted { .. })),
            2
        );
        // The manager has not heard of the addresses: they must not vanish for that.
        let missing = host.missing_attestations(&ground.bindings());
        assert_eq!(missing.len(), 1);
        // Once it has them, there is nothing to tell.
        let mut log = ground.bindings();
        log.attestations.extend(missing);
        assert!(host.missing_attestations(&log).is_empty());
        // A guest that is gone has none.
        assert!(host.missing_attestations(&BindingLog::default()).is_empty());
    });
}

#[test]
fn what_one_person_signed_is_refused_once_and_the_last_good_release_stays() {
    on_ground(|ground| {
        let mut host = ground.open_loaded();
        for _ in 0..3 {
            let offered = host
                .offer(&ground.release(2), &ground.bindings(), 3)
                .expect("works");
            assert!(matches!(offered, Offered::Refused(reason) if reason.contains("approver")));
        }
        let report = host.report(4).expect("readable");
        assert_eq!(report.generation, Generation(1));
        assert!(
            report
                .refused
                .is_some_and(|reason| reason.contains("approver"))
        );
        assert_eq!(
            count(&mut host, |body| matches!(
                body,
                Body::ReleaseRefused { .. }
            )),
            1
        );
        host.offer(&ground.approved(2), &ground.bindings(), 5)
            .expect("works");
        let offered = host
            .offer(&ground.approved(1), &ground.bindings(), 6)
            .expect("works");
        assert!(matches!(offered, Offered::Refused(reason) if reason.contains("already enforced")));
        assert_eq!(host.report(7).expect("readable").generation, Generation(2));
    });
}

#[test]
fn a_vnic_that_no_binding_names_and_an_address_outside_the_delegation_are_refused_whole() {
    on_ground(|ground| {
        ip("tuntap add dev tap-db mode tap");
        ip("tuntap add dev tap-other mode tap");
        let mut host = ground.open_loaded();
        let check = |host: &mut Host, request: &Attach, expected: &str| {
            let error = host
                .attach(request, 3)
                .expect_err("must be refused")
                .chain();
            assert!(error.contains(expected), "{error}");
            assert!(
                host.report(4).expect("readable").guests.is_empty(),
                "nothing is attached"
            );
        };
        check(
            &mut host,
            &attach("tap-other", "10.1.0.10"),
            "no binding names vnic tap-other",
        );
        check(
            &mut host,
            &attach("tap-db", "10.2.0.10"),
            "outside the delegated prefixes",
        );
    });
}

#[test]
fn trap_7_a_device_that_nobody_announced_is_held_and_reported_with_its_window() {
    on_ground(|ground| {
        let mut host = ground.open_loaded();
        assert!(host.attach_strays(1_000).expect("works").is_empty());
        ip("link add br0 type bridge");
        ip("tuntap add dev tap-db mode tap");
        ip("link set tap-db master br0 up");
        let strays = host.attach_strays(1_700).expect("works");
        assert_eq!(strays, [GuestId::new("db").expect("valid")]);
        let report = host.report(4).expect("readable");
        assert_eq!(report.guests[0].vnics[0].state, VnicState::Hold);
        let attached = bodies(&mut host).into_iter().find_map(|body| match body {
            Body::VnicAttached {
                how,
                before_first_packet,
                window_ms,
                ..
            } => Some((how, before_first_packet, window_ms)),
            _ => None,
        });
        assert_eq!(attached, Some(("found".into(), false, 700)));
        assert!(host.attach_strays(1_800).expect("works").is_empty());
    });
}

#[test]
fn a_device_that_went_with_its_guest_is_let_go_with_evidence() {
    on_ground(|ground| {
        let mut host = ground.open_with_db();
        ip("link del tap-db");
        let gone = host.reconcile(4).expect("works");
        assert_eq!(gone, [GuestId::new("db").expect("valid")]);
        assert!(host.report(5).expect("readable").guests.is_empty());
        assert_eq!(
            count(&mut host, |body| matches!(body, Body::VnicDetached { .. })),
            1
        );
    });
}

#[test]
fn a_rule_ends_at_midnight_after_its_last_day_without_any_release() {
    /// 2030-01-02, 00:00 UTC: the day after the last one of the policy's only rule.
    const OVER_MS: u64 = 1_893_542_400_000;
    on_ground(|ground| {
        let mut host = ground.open_with_db();
        let kernel = Datapath::open(&ground.path("bpf")).expect("opens");
        let rows = || kernel.read_back().expect("reads").decisions.len();
        let before = rows();
        assert!(before > 0, "the rule decides");
        let loaded = |body: &Body| matches!(body, Body::ReleaseLoaded { .. });
        host.reconcile(OVER_MS - 1).expect("works");
        assert_eq!((rows(), count(&mut host, loaded)), (before, 1));
        host.reconcile(OVER_MS).expect("works");
        assert_eq!((rows(), count(&mut host, loaded)), (0, 2));
        host.reconcile(OVER_MS + 1).expect("works");
        assert_eq!(count(&mut host, loaded), 2);
        let report = host.report(OVER_MS + 2).expect("readable");
        assert_eq!(report.tables_expected, report.tables_found);
    });
}

#[test]
fn a_window_opens_and_closes_with_its_hours_and_stays_closed_when_the_clock_goes_back() {
    /// 2026-11-24, a Tuesday, 00:00 UTC.
    const DAY_MS: u64 = 1_795_478_400_000;
    const HOUR_MS: u64 = 3_600_000;
    on_ground(|ground| {
        ip("tuntap add dev tap-db mode tap");
        let mut host = ground.open();
        let text = POLICY.replace("tier app", "window work = mon-fri 08-18\ntier app");
        let text = text.replace("service web just", "service web during work just");
        let mut envelope = ground.release_of(&text, 1);
        envelope
            .add_signature(&ground.approver)
            .expect("another key");
        let offered = host.offer(&envelope, &ground.bindings(), DAY_MS);
        assert_eq!(offered.expect("works"), Offered::Loaded);
        let kernel = Datapath::open(&ground.path("bpf")).expect("opens");
        let allows = |host: &mut Host, now_ms: u64| {
            host.reconcile(now_ms).expect("works");
            let tables = kernel.read_back().expect("reads");
            let mut rows = tables.decisions.iter();
            rows.any(|row| row.verdict == Verdict::Allow)
        };
        let open = (0..24).filter(|hour| allows(&mut host, DAY_MS + hour * HOUR_MS));
        assert_eq!(open.collect::<Vec<_>>(), (8..18).collect::<Vec<_>>());
        // The clock is set back into the window.
        assert!(!allows(&mut host, DAY_MS + 12 * HOUR_MS));
        assert!(allows(&mut host, DAY_MS + 32 * HOUR_MS));
        // The same while the agent was not there: its evidence knows better.
        drop(host);
        let mut host = ground.open();
        assert!(!allows(&mut host, DAY_MS + 12 * HOUR_MS));
        assert!(allows(&mut host, DAY_MS + 33 * HOUR_MS));
    });
}

#[test]
fn one_signer_cuts_a_guest_off_until_a_day_is_over() {
    /// 2030-01-01, 00:00 UTC, and the day before.
    const OVER_MS: u64 = 1_893_456_000_000;
    on_ground(|ground| {
        let mut host = ground.open_with_db();
        let guest = GuestId::new("db").expect("valid");
        host.set_state(&guest, VnicState::Open, "it runs")
            .expect("works");
        let tap = "tap-db".parse().expect("valid");
        let verdicts = |host: &Host| {
            let ports = [22, 80, 81, 443, 5_432].into_iter();
            let probes = ports.flat_map(|port| {
                [
                    format!("tcp 10.1.0.10:4000 > 192.0.2.9:{port}"),
                    format!("tcp 192.0.2.9:4000 > 10.1.0.10:{port}"),
                ]
            });
            let says = |text: String| {
                let probe: Probe = text.parse().expect("a packet");
                host.explain(&tap, &probe, None).expect("explains").verdict
            };
            probes.map(says).collect::<Vec<_>>()
        };
        let before = verdicts(&host);
        assert!(before.contains(&Verdict::Allow), "{before:?}");
        let mut log = ground.bindings_isolated(Date::new(2029, 12, 31).expect("a day"));
        log.attestations = host.missing_attestations(&log);
        let offered = host.offer(&ground.approved(1), &log, OVER_MS - 2);
        assert_eq!(offered.expect("works"), Offered::Loaded);
        assert!(!verdicts(&host).contains(&Verdict::Allow));
        let report = host.report(OVER_MS - 1).expect("readable");
        assert_eq!(report.tables_expected, report.tables_found);
        assert!(report.hooks_ok && report.controls[0].healthy);
        host.reconcile(OVER_MS).expect("works");
        assert_eq!(verdicts(&host), before);
    });
}

/// Every drift so far, as (found, whether it was repaired).
fn drifts(host: &mut Host) -> Vec<(String, bool)> {
    let drift = |body| match body {
        Body::Drift {
            subject,
            found,
            repaired,
            ..
        } => {
            assert_eq!(subject, "the hooks of vnic tap-db");
            Some((found, repaired))
        }
        _ => None,
    };
    bodies(host).into_iter().filter_map(drift).collect()
}

/// A firewall of somebody else, with pins of its own.
struct Stranger {
    folder: tempfile::TempDir,
    datapath: Datapath,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.folder.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

impl Stranger {
    const VNIC: VnicId = VnicId(1);

    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        mount_bpffs(folder.path()).expect("a BPF file system can be mounted");
        let datapath = Datapath::open(folder.path()).expect("opens");
        let mut stranger = Self { folder, datapath };
        if !has_tcx() {
            // A filter names a program that is pinned, so it must be loaded for some device.
            ip("tuntap add dev tap-other mode tap");
            stranger.attach("tap-other");
        }
        stranger
    }

    fn attach(&mut self, device: &str) {
        let spec = VnicSpec {
            vnic: Self::VNIC,
            name: "stranger".parse().expect("valid"),
            device: device.into(),
            mac: "52:54:00:00:00:01".parse().expect("valid"),
            segment: Segment(1),
            sessions_max: 16,
            link: Link::PLAIN,
            endpoint: lictor_types::Endpoint::Guest,
        };
        self.datapath.attach(&spec).expect("attaches");
    }

    /// Puts a program before the agent's, as this kernel lets anybody do.
    fn precede(&mut self) {
        if has_tcx() {
            return self.attach("tap-db");
        }
        let program = layout(self.folder.path()).join("vnics/1/from_guest");
        let filter = "filter add dev tap-db ingress pref 1 handle 2 bpf da object-pinned";
        run("tc", &format!("{filter} {}", program.display()));
    }

    fn leave(&mut self) {
        if has_tcx() {
            self.datapath.detach(Self::VNIC).expect("detaches");
        } else {
            let filter = "filter del dev tap-db ingress pref 1 handle 2 bpf";
            run("tc", filter);
        }
    }
}

/// The folder of the only layout below a pin root.
fn layout(pin_root: &Path) -> PathBuf {
    let mut layouts = std::fs::read_dir(pin_root).expect("readable");
    let layout = layouts.next().expect("one layout");
    layout.expect("readable").path()
}

fn has_tcx() -> bool {
    Datapath::check_kernel().expect("a kernel that will do").tcx
}

#[test]
fn a_program_of_a_stranger_before_ours_is_recorded_once_as_not_repaired() {
    on_ground(|ground| {
        let mut host = ground.open_with_db();
        let round = |host: &mut Host, now_ms| {
            assert_eq!(host.reconcile(now_ms).expect("works"), []);
        };
        round(&mut host, 4);
        assert_eq!(drifts(&mut host), [], "nothing has happened");

        let mut stranger = Stranger::new();
        stranger.precede();
        (5..8).for_each(|now_ms| round(&mut host, now_ms));
        let ingress = if has_tcx() {
            "after 1 of others"
        } else {
            "first"
        };
        let preceded = format!("egress after 1 of others, ingress {ingress}");
        assert_eq!(drifts(&mut host), [(preceded.clone(), false)]);
        let report = host.report(8).expect("readable");
        assert!(!report.hooks_ok && !report.controls[0].healthy);

        stranger.leave();
        round(&mut host, 9);
        assert!(host.report(9).expect("readable").hooks_ok);
        assert_eq!(drifts(&mut host).len(), 1);
        drop(host);

        // Another life of the agent finds it anew, because it knows nothing of the first one.
        let mut host = ground.open();
        stranger.precede();
        round(&mut host, 10);
        round(&mut host, 11);
        assert_eq!(drifts(&mut host)[1..], [(preceded, false)]);
    });
}

#[test]
fn trap_9_a_hook_that_somebody_removed_is_put_back_and_each_time_is_recorded() {
    on_ground(|ground| {
        let mut host = ground.open_with_db();
        // What ends every rule of others ends none of Lictor's.
        run("nft", "flush ruleset");
        host.reconcile(3).expect("works");
        assert!(host.report(3).expect("readable").hooks_ok);
        assert_eq!(drifts(&mut host), []);
        for now_ms in [4, 5] {
            ground.unhook();
            assert!(!host.report(now_ms).expect("readable").hooks_ok);
            host.reconcile(now_ms).expect("works");
            assert!(host.report(now_ms).expect("readable").hooks_ok);
        }
        let ingress = if has_tcx() { "first" } else { "not attached" };
        let lost = (format!("egress not attached, ingress {ingress}"), true);
        assert_eq!(drifts(&mut host), [lost.clone(), lost]);
    });
}

fn mode_of_db(host: &Host) -> Mode {
    host.report(9).expect("reports").guests[0].vnics[0].mode
}

#[test]
fn the_hypervisors_own_device_is_observed_until_somebody_confirms_and_after_the_next_start_too() {
    on_ground(|ground| {
        ip("tuntap add dev tap-db mode tap");
        let own = || {
            let config = Config {
                host_device: Some("tap-db".into()),
                ..ground.config()
            };
            ground.open_as(config)
        };
        let mut host = own();
        let nothing = host
            .set_host_mode(Mode::Enforce, 0, 2)
            .expect_err("not attached");
        assert!(nothing.to_string().contains("host_device"), "{nothing}");
        host.offer(&ground.approved(1), &ground.bindings(), 2)
            .expect("works");
        let attached = host
            .attach(&attach("tap-db", "10.1.0.10"), 3)
            .expect("bound");
        assert_eq!(attached.state, VnicState::Open, "nobody is cut off");
        assert_eq!(mode_of_db(&host), Mode::Observe);
        let endless = host
            .set_host_mode(Mode::Trial, 3_601, 4)
            .expect_err("too long");
        assert!(endless.to_string().contains("1 to 3600"), "{endless}");
        host.set_host_mode(Mode::Trial, 60, 5).expect("on trial");
        assert_eq!(mode_of_db(&host), Mode::Trial);
        host.set_host_mode(Mode::Enforce, 0, 6).expect("confirmed");
        let held = host
            .set_state(&GuestId::new("db").expect("valid"), VnicState::Hold, "test")
            .expect("works");
        assert_eq!(
            held,
            Vec::new(),
            "what holds for guests does not cut off the host"
        );
        host.detach(&"tap-db".parse().expect("valid"), 7)
            .expect("let go");
        drop(host);
        let mut host = own();
        host.attach(&attach("tap-db", "10.1.0.10"), 8)
            .expect("bound");
        assert_eq!(mode_of_db(&host), Mode::Enforce);
        let modes = count(&mut host, |body| matches!(body, Body::HostMode { .. }));
        assert_eq!(modes, 2);
    });
}

#[test]
fn a_state_directory_has_one_agent() {
    on_ground(|ground| {
        let host = ground.open();
        let state = StateDir::new(&ground.path("state"));
        let error = state.lock().expect_err("it is taken").to_string();
        assert!(error.contains("another agent runs"), "{error}");
        drop(host);
        unlocked(|| state.lock()).expect("it is free again");
    });
}

#[test]
fn a_host_that_nobody_enrolled_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state = StateDir::new(Path::new(folder.path()));
    let error = state.trust().expect_err("there is none").to_string();
    assert!(error.contains("lictor agent enroll"), "{error}");
}

fn session(port: u16) -> SessionRecord {
    SessionRecord {
        key: SessionKey {
            segment: Segment(1),
            protocol: 6,
            local: "10.1.0.7".parse().expect("valid"),
            remote: "10.1.0.9".parse().expect("valid"),
            local_port: 80,
            remote_port: port,
        },
        opened: Direction::Ingress,
        state: TcpState::Established,
        rule: RuleId(1),
        generation: Generation(1),
        local_epoch: Epoch(1),
        remote_epoch: Epoch(1),
        idle_ms: 0,
        expires_in_ms: 60_000,
        packets: [1, 1],
        bytes: [1, 1],
        tcp: [TcpEnd::default(); 2],
    }
}

#[test]
fn a_source_neither_adds_to_nor_takes_from_a_vnic_of_another_guest() {
    on_ground(|ground| {
        let mut host = ground.open();
        host.offer(&ground.approved(1), &ground.bindings(), 1)
            .expect("offered");
        ip("tuntap add tap-db mode tap");
        host.attach(&attach("tap-db", "10.1.0.7"), 2)
            .expect("attached");
        let (db, other) = (
            GuestId::new("db").expect("valid"),
            GuestId::new("other").expect("valid"),
        );
        let count = |host: &Host| {
            let report = host.report(3).expect("reported");
            report.guests[0].vnics[0].sessions
        };
        let (vnic, mut arrival) = (VnicId(7), Arrival::default());
        let first = Chunk::of(0, &[(9, session(40_000))]);
        host.take_in((&db, vnic), &first, &mut arrival)
            .expect("taken in");
        assert_eq!((count(&host), arrival.accepted()), (1, 1));

        let mut foreign = Arrival::default();
        let one = Chunk::of(0, &[(0, session(1))]);
        host.take_in((&other, vnic), &one, &mut foreign)
            .expect_err("not the vnic of this guest");
        host.take_out((&other, vnic), (0, &[9]), &mut foreign)
            .expect_err("not the vnic of this guest");
        assert_eq!(count(&host), 1);
        let counted = |rules: std::ops::Range<u32>| {
            let rows = rules.map(|rule| (Counted::Rule(RuleId(rule)), Tally::default()));
            rows.collect::<Vec<_>>()
        };
        host.note_counted((&other, vnic), counted(0..1), &mut foreign)
            .expect_err("not the vnic of this guest");
        host.note_counted((&db, vnic), counted(0..RULES_PER_VNIC_MAX), &mut arrival)
            .expect("as many rules as a vnic can have");
        let all = 0..2 * RULES_PER_VNIC_MAX;
        host.note_counted((&db, vnic), counted(all), &mut arrival)
            .expect_err("more than it can have");

        // A source may say that it has twice the table, and no more.
        let beyond = Chunk::of(0, &[(1 << 20, session(2))]);
        host.take_in((&db, vnic), &beyond, &mut arrival)
            .expect_err("no table is so large");
        host.take_out((&db, vnic), (7, &[0]), &mut arrival)
            .expect_err("there is no such table");
        let elsewhere = SessionRecord {
            key: SessionKey {
                local: "10.9.9.9".parse().expect("valid"),
                ..session(3).key
            },
            ..session(3)
        };
        let stranger = Chunk::of(0, &[(10, elsewhere)]);
        host.take_in((&db, vnic), &stranger, &mut arrival)
            .expect("listed, not taken in");
        let refused = BTreeMap::from([("foreign-address".to_owned(), 1)]);
        assert_eq!((arrival.count(), arrival.refused()), (2, refused));
        host.take_out((&db, vnic), (0, &[9, 10, 11]), &mut arrival)
            .expect("taken out");
        assert_eq!((count(&host), arrival.count()), (0, 0));
    });
}

#[test]
fn a_host_has_the_time_outs_of_its_configuration() {
    on_ground(|ground| {
        let timeouts = Timeouts {
            udp_established: 300,
            ..Timeouts::default()
        };
        let config = Config {
            timeouts,
            ..ground.config()
        };
        drop(ground.open_as(config));
        let datapath = Datapath::open(&ground.path("bpf")).expect("opens");
        assert_eq!(datapath.timeouts().expect("reads"), timeouts);
        let file = ground.path("agent.toml");
        let text = toml::to_string(&ground.config()).expect("a table");
        let wrong = text.replace("icmp = 60", "icmp = 0");
        assert_ne!(wrong, text, "the table has every time-out");
        std::fs::write(&file, wrong).expect("written");
        let error = Config::read(&file)
            .expect_err("zero is no time")
            .to_string();
        assert!(error.ends_with("choose one in between"), "{error}");
    });
}

/// What the loaded program says of a packet that begins something is what the policy says of it.
#[test]
fn the_loaded_program_agrees_with_the_policy_alone() {
    on_ground(|ground| {
        let host = ground.open_with_db();
        let guest = GuestId::new("db").expect("valid");
        host.set_state(&guest, VnicState::Open, "it runs")
            .expect("works");
        let (policy, _) = parse("test.lictor", POLICY.as_bytes());
        let policy = policy.expect("sound");
        let tap = "tap-db".parse().expect("valid");
        let mut reached = std::collections::BTreeSet::new();
        for (ends, from_guest) in [("10.1.0.10", "192.0.2.9"), ("10.1.0.10", "10.1.0.77")]
            .into_iter()
            .flat_map(|ends| [(ends, true), (ends, false)])
        {
            let ends = match from_guest {
                true => ends,
                false => (ends.1, ends.0),
            };
            let services = [22, 80, 81].map(|port| {
                let (from, to) = ends;
                ["tcp", "udp", "sctp"].map(|one| format!("{one} {from}:4000 > {to}:{port}"))
            });
            let others = ["icmp/8", "ip/47"];
            let others = others.map(|one| format!("{one} {} > {}", ends.0, ends.1));
            for text in services.into_iter().flatten().chain(others) {
                let probe: Probe = text.parse().expect("a packet");
                let (protocol, port) = probe.service();
                let (mut source, mut destination) = (
                    End::Address(probe.source()),
                    End::Address(probe.destination()),
                );
                match from_guest {
                    true => source = End::Guest(labels()),
                    false => destination = End::Guest(labels()),
                }
                let said = evaluate(
                    &policy,
                    &Question {
                        source,
                        destination,
                        protocol,
                        port,
                        date: Date::new(2026, 11, 24).expect("a day"),
                    },
                );
                let ruling = said.egress.or(said.ingress).expect("a guest's end");
                let found = host.explain(&tap, &probe, None).expect("explains");
                assert_eq!(
                    (found.verdict, found.rule),
                    (ruling.verdict, ruling.rule),
                    "{text}: {found:?}"
                );
                reached.insert(found.reason);
            }
        }
        assert_eq!(
            reached.into_iter().collect::<Vec<_>>(),
            [Reason::PolicyAllow, Reason::DefaultDeny]
        );
        let stranger = "eth9".parse().expect("valid");
        let error = host.explain(
            &stranger,
            &"ip/47 10.1.0.10 > 192.0.2.9".parse().expect("a packet"),
            None,
        );
        let error = error.expect_err("no such vnic").to_string();
        assert_eq!(
            error,
            "vnic eth9 is not attached here; see `lictor host status`"
        );
    });
}
