//! The loaded programs and the model side by side.

use crate::common::{Bpffs, own_namespace, run};
use crate::generate::{Case, Memory, Step};
use crate::reports::{Report, drain, first_difference};
use crate::world::VNICS;
use lictor_datapath::{Datapath, Lease, RuleCount, Terms, VnicCounters, VnicSpec};
use lictor_model::{Firewall, Frame, Unreported};
use lictor_types::{
    Direction, Reason, RuleId, SessionRecord, TcpEnd, TcpState, Timeouts, VnicName, VnicState,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Steps between two comparisons of sessions and counters.
const COMPARE_EVERY: usize = 256;
/// Longer than all clock steps of one case.
const CASE_BEGINS_EVERY: Duration = Duration::from_secs(1_000_000);
/// What a packet takes.
const PACKET_TIME: Duration = Duration::from_millis(5);
/// Longer than the place of a session that ended waits before it is taken again.
const SLOTS_REST: Duration = Duration::from_millis(50);
/// Runs that shrinking may take.
const SHRINK_RUNS_MAX: usize = 3_000;
/// The ticks in which a session is dated, and the rounding to milliseconds.
const TICK: Duration = Duration::from_millis(3);

/// Conversations begin as the policy says.
const FREE: Terms = Terms {
    lease: Lease::Free,
    stale: false,
    adopt: Duration::ZERO,
};

const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// Where the two differ.
#[derive(Debug)]
pub(crate) struct Difference {
    /// The last step before it was seen.
    pub(crate) step: usize,
    pub(crate) text: String,
}

/// What was reached, so that a generator that reaches little is noticed.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    pub(crate) packets: usize,
    pub(crate) reasons: BTreeMap<Reason, usize>,
    pub(crate) states: BTreeSet<u8>,
    /// Events by reason.
    pub(crate) events: BTreeMap<Reason, usize>,
}

impl Reached {
    pub(crate) fn add(&mut self, other: Self) {
        self.packets += other.packets;
        for (reason, packets) in other.reasons {
            *self.reasons.entry(reason).or_default() += packets;
        }
        self.states.extend(other.states);
        for (reason, events) in other.events {
            *self.events.entry(reason).or_default() += events;
        }
    }
}

pub(crate) struct Rig {
    datapath: Datapath,
    _bpffs: Bpffs,
    /// When the next case begins, on the clock that all cases share: limits of the last one are
    /// over by then.
    clock: Duration,
    pub(crate) reached: Reached,
}

/// What the kernel had counted when a case began.
struct Base {
    vnics: Vec<VnicCounters>,
    rules: BTreeMap<RuleId, RuleCount>,
    unreported: Unreported,
}

/// One run of a case.
struct Run<'a> {
    case: &'a Case,
    models: [Firewall; 2],
    base: Base,
    /// What the models have reported since the last comparison.
    reports: Vec<Report>,
    /// The clock of both.
    now: Duration,
}

impl Rig {
    /// Two devices with an attached vnic each, and no tables.
    pub(crate) fn new() -> Self {
        own_namespace();
        let bpffs = Bpffs::new();
        let mut datapath = Datapath::open(bpffs.path()).expect("opens");
        for vnic in VNICS {
            let device = format!("host{}", vnic.vnic);
            run(&format!(
                "ip link add {device} type veth peer name guest{}",
                vnic.vnic
            ));
            let spec = VnicSpec {
                vnic: vnic.vnic,
                name: VnicName::new(device.clone()).expect("a valid name"),
                device,
                mac: vnic.mac,
                segment: vnic.segment,
                sessions_max: vnic.sessions_max,
                link: vnic.link,
                endpoint: lictor_types::Endpoint::Guest,
            };
            datapath.attach(&spec).expect("attaches");
        }
        Self {
            datapath,
            _bpffs: bpffs,
            clock: CASE_BEGINS_EVERY,
            reached: Reached::default(),
        }
    }

    /// Runs a case from a clean start. `None` if both agree in everything.
    pub(crate) fn run(&mut self, case: &Case) -> Option<Difference> {
        let mut models = VNICS.map(Firewall::new);
        // Of a case that ended with a difference.
        drain(&mut self.datapath);
        self.clock += CASE_BEGINS_EVERY;
        self.fix_clock(self.clock);
        for model in &mut models {
            for vnic in &VNICS {
                model.set_local(vnic.vnic, VnicState::Open);
            }
        }
        if let Some(first) = case.tables.first() {
            self.datapath.load(first).expect("loads");
            models
                .iter_mut()
                .for_each(|model| model.load(&case.model_tables[0]));
        }
        for (vnic, model) in VNICS.iter().zip(&mut models) {
            self.datapath.purge(vnic.vnic).expect("purges");
            self.datapath.set_terms(vnic.vnic, &FREE).expect("sets");
            self.datapath
                .set_state(vnic.vnic, VnicState::Open)
                .expect("opens");
            model.set_state(VnicState::Open);
        }
        self.set_timeouts(&mut models, &Timeouts::default());
        let mut run = Run {
            case,
            models,
            base: self.counted(),
            reports: Vec::new(),
            now: self.clock,
        };
        for (index, step) in case.steps.iter().enumerate() {
            let mut text = self.step(&mut run, step);
            let last = index + 1 == case.steps.len();
            if text.is_none() && (last || index % COMPARE_EVERY == 0) {
                text = self.compare(&mut run);
            }
            if let Some(text) = text {
                return Some(Difference { step: index, text });
            }
        }
        None
    }

    /// Time stands still but for the steps of a case.
    fn fix_clock(&self, at: Duration) {
        for vnic in VNICS {
            self.datapath.fix_clock(vnic.vnic, at).expect("sets");
        }
    }

    fn set_timeouts(&self, models: &mut [Firewall; 2], timeouts: &Timeouts) {
        self.datapath.set_timeouts(timeouts).expect("sets");
        models
            .iter_mut()
            .for_each(|model| model.set_timeouts(timeouts));
    }

    fn counted(&self) -> Base {
        let read = |vnic: lictor_model::Vnic| self.datapath.counters(vnic.vnic).expect("reads");
        Base {
            vnics: VNICS.map(read).to_vec(),
            rules: self.datapath.rule_counters().expect("reads"),
            unreported: Unreported {
                limited: self.datapath.events_limited().expect("reads"),
                lost: self.datapath.lost().expect("reads").0,
            },
        }
    }

    fn step(&mut self, run: &mut Run<'_>, step: &Step) -> Option<String> {
        match step {
            Step::Packet {
                vnic,
                direction,
                came_by,
                bytes,
            } => {
                run.now += PACKET_TIME;
                let id = VNICS[*vnic].vnic;
                self.datapath.fix_clock(id, run.now).expect("sets");
                return self.packet(run, (*vnic, *direction, *came_by), bytes);
            }
            Step::Clock { seconds } => {
                run.now += Duration::from_secs(*seconds);
                self.fix_clock(run.now);
            }
            Step::Load { tables } => {
                self.datapath
                    .load(&run.case.tables[*tables])
                    .expect("loads");
                let tables = &run.case.model_tables[*tables];
                run.models.iter_mut().for_each(|model| model.load(tables));
            }
            Step::State { vnic, state } => {
                self.datapath
                    .set_state(VNICS[*vnic].vnic, *state)
                    .expect("sets");
                run.models[*vnic].set_state(*state);
                let local = VNICS[*vnic].vnic;
                let models = run.models.iter_mut();
                models.for_each(|model| model.set_local(local, *state));
            }
            Step::Timeouts { timeouts } => self.set_timeouts(&mut run.models, timeouts),
            Step::Terms {
                vnic,
                lease,
                adopt,
                stale,
            } => {
                self.fix_clock(run.now);
                let (lease, adopt) = (lease.map(Duration::from_secs), *adopt);
                let terms = Terms {
                    lease: lease.map_or(Lease::Free, Lease::For),
                    stale: *stale,
                    adopt: Duration::from_secs(adopt),
                };
                let id = VNICS[*vnic].vnic;
                self.datapath.set_terms(id, &terms).expect("sets");
                run.models[*vnic].set_terms(lictor_model::Terms {
                    lease_until: lease.map(|lease| run.now + lease),
                    adopt_until: run.now + Duration::from_secs(adopt),
                    stale: *stale,
                });
            }
            Step::Sweep { vnic } => {
                self.fix_clock(run.now);
                self.datapath.sweep(VNICS[*vnic].vnic).expect("sweeps");
                run.models[*vnic].sweep(run.now);
            }
            Step::Handover { vnic, memory } => return self.handover(run, *vnic, *memory),
        }
        None
    }

    fn packet(
        &mut self,
        run: &mut Run<'_>,
        (vnic, direction, came_by): (usize, Direction, Option<usize>),
        bytes: &[u8],
    ) -> Option<String> {
        let (own, came_by) = (VNICS[vnic].vnic, came_by.map(|other| VNICS[other].vnic));
        let kernel = match came_by {
            Some(from) => self.datapath.test_run_from(from, own, direction, bytes),
            None => self.datapath.test_run(own, direction, bytes),
        };
        let kernel = kernel.unwrap_or_else(|error| panic!("{error:?} on {bytes:02x?}"));
        let model = run.models[vnic].judge(&Frame {
            direction,
            at: run.now,
            bytes,
            came_by,
        });
        self.reached.packets += 1;
        *self.reached.reasons.entry(model.reason).or_default() += 1;
        if let Some(event) = run.models[vnic].event() {
            *self.reached.events.entry(event.reason).or_default() += 1;
            run.reports.push((own, *event));
        }
        let refusal = run.models[vnic].refusal().map(<[u8]>::to_vec);
        if kernel.answer != refusal {
            let (kernel, model) = (kernel.answer, refusal);
            return Some(format!(
                "answers\nkernel {kernel:02x?}\nmodel  {model:02x?}"
            ));
        }
        let kernel = (kernel.verdict, kernel.reason, kernel.rule, kernel.would);
        let model = (model.verdict, model.reason, model.rule, model.would);
        if kernel != model {
            return Some(format!("kernel {kernel:?}\nmodel  {model:?}"));
        }
        // Each answer passes the other hook at once.
        let back = match direction {
            Direction::Egress => Direction::Ingress,
            Direction::Ingress => Direction::Egress,
        };
        refusal.and_then(|answer| self.packet(run, (vnic, back, None), &answer))
    }

    /// The sessions leave and come back, as at a move.
    fn handover(&mut self, run: &mut Run<'_>, vnic: usize, memory: Memory) -> Option<String> {
        if let Some(text) = self.compare(run) {
            return Some(text);
        }
        let id = VNICS[vnic].vnic;
        let forget = |record: SessionRecord| match memory {
            Memory::Kept => record,
            Memory::Lost => SessionRecord {
                tcp: [TcpEnd::default(); 2],
                ..record
            },
        };
        let left: Vec<_> = self
            .datapath
            .export(id)
            .expect("exports")
            .into_iter()
            .map(forget)
            .collect();
        self.datapath.purge(id).expect("purges");
        let of_model = run.models[vnic].sessions(run.now).into_iter();
        let of_model: Vec<_> = of_model.map(forget).collect();
        run.now += SLOTS_REST;
        self.fix_clock(run.now);
        let receipt = self.datapath.import(id, &left).expect("imports");
        assert_eq!(receipt.imported as usize, left.len(), "{receipt:?}");
        let model = &mut run.models[vnic];
        model.purge();
        model.import(&of_model, run.now);
        None
    }

    /// Events, sessions and counters of both.
    fn compare(&mut self, run: &mut Run<'_>) -> Option<String> {
        self.fix_clock(run.now);
        let reports = std::mem::take(&mut run.reports);
        if let Some(text) = first_difference(&drain(&mut self.datapath), &reports) {
            return Some(text);
        }
        for (index, vnic) in VNICS.iter().enumerate() {
            let mut kernel = self.datapath.export(vnic.vnic).expect("exports");
            kernel.sort_by_key(|record| record.key);
            let model = run.models[index].sessions(run.now);
            self.reached
                .states
                .extend(model.iter().map(|record| record.state as u8));
            let same = kernel.len() == model.len()
                && kernel.iter().zip(&model).all(|(a, b)| same_session(a, b));
            if !same {
                let only = |list: &[SessionRecord], others: &[SessionRecord]| -> Vec<String> {
                    let missing = list.iter().filter(|a| {
                        !others
                            .iter()
                            .any(|b| same_session(a, b) || same_session(b, a))
                    });
                    missing.map(|record| format!("{record:?}")).collect()
                };
                return Some(format!(
                    "sessions of vnic {}\nkernel {:#?}\nmodel  {:#?}",
                    vnic.vnic,
                    only(&kernel, &model),
                    only(&model, &kernel)
                ));
            }
        }
        let (kernel, model) = (self.counts(&run.base), model_counts(&run.models));
        (kernel != model).then(|| format!("counters\nkernel {kernel:?}\nmodel  {model:?}"))
    }

    fn counts(&self, base: &Base) -> Counts {
        let now = self.counted();
        let mut counts = Counts::default();
        for (index, (now, base)) in now.vnics.iter().zip(&base.vnics).enumerate() {
            for direction in DIRECTIONS {
                let of = |counters: &VnicCounters| match direction {
                    Direction::Egress => counters.egress.clone(),
                    Direction::Ingress => counters.ingress.clone(),
                };
                let (now, base) = (of(now), of(base));
                let since = |now: lictor_datapath::Count, base: lictor_datapath::Count| {
                    (now.packets - base.packets, now.bytes - base.bytes)
                };
                counts.insert((index, direction, None), since(now.seen, base.seen));
                for (reason, count) in &now.reasons {
                    let key = (index, direction, Some(*reason));
                    counts.insert(key, since(*count, base.reason(*reason)));
                }
            }
        }
        let rules = now.rules.iter().map(|(rule, now)| {
            let base = base.rules.get(rule).copied().unwrap_or_default();
            let since = [
                now.packets - base.packets,
                now.bytes - base.bytes,
                now.sessions - base.sessions,
                now.observed - base.observed,
            ];
            (*rule, since)
        });
        let unreported = Unreported {
            limited: now.unreported.limited - base.unreported.limited,
            lost: now.unreported.lost - base.unreported.lost,
        };
        Counts::new(counts.vnics, rules.collect(), unreported)
    }
}

type ByReason = BTreeMap<(usize, Direction, Option<Reason>), (u64, u64)>;

/// Counters since a case began; what is zero is left out.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    vnics: ByReason,
    rules: BTreeMap<RuleId, [u64; 4]>,
    unreported: Unreported,
}

impl Counts {
    fn new(
        mut vnics: ByReason,
        mut rules: BTreeMap<RuleId, [u64; 4]>,
        unreported: Unreported,
    ) -> Self {
        vnics.retain(|_, count| *count != (0, 0));
        rules.retain(|_, count| *count != [0; 4]);
        Self {
            vnics,
            rules,
            unreported,
        }
    }

    fn insert(&mut self, key: (usize, Direction, Option<Reason>), count: (u64, u64)) {
        self.vnics.insert(key, count);
    }
}

fn model_counts(models: &[Firewall; 2]) -> Counts {
    let mut counts = Counts::default();
    for (index, model) in models.iter().enumerate() {
        let counters = model.counters();
        for direction in DIRECTIONS {
            let seen = counters.seen[direction as usize];
            counts.insert((index, direction, None), (seen.packets, seen.bytes));
        }
        for ((direction, reason), count) in &counters.reasons {
            counts.insert(
                (index, *direction, Some(*reason)),
                (count.packets, count.bytes),
            );
        }
        for (rule, count) in &counters.rules {
            let sum = counts.rules.entry(*rule).or_default();
            let add = [count.packets, count.bytes, count.sessions, count.observed];
            sum.iter_mut().zip(add).for_each(|(sum, add)| *sum += add);
        }
        counts.unreported.limited += model.unreported().limited;
        counts.unreported.lost += model.unreported().lost;
    }
    Counts::new(counts.vnics, counts.rules, counts.unreported)
}

/// Ages are rounded in the kernel only.
fn same_session(kernel: &SessionRecord, model: &SessionRecord) -> bool {
    let within = |less: u32, more: u32| {
        more.checked_sub(less)
            .is_some_and(|by| Duration::from_millis(by.into()) <= TICK)
    };
    let known = |record: &SessionRecord| {
        record.tcp.map(|end| match end.flags & 1 {
            1 => end,
            _ => TcpEnd {
                acked: end.acked,
                flags: end.flags,
                ..TcpEnd::default()
            },
        })
    };
    let same = SessionRecord {
        idle_ms: model.idle_ms,
        expires_in_ms: model.expires_in_ms,
        tcp: known(kernel),
        ..*kernel
    } == SessionRecord {
        tcp: known(model),
        ..*model
    };
    same && within(kernel.expires_in_ms, model.expires_in_ms)
        && within(model.idle_ms, kernel.idle_ms)
}

/// The least steps that still differ, by leaving out ever smaller runs of them.
pub(crate) fn shrink(rig: &mut Rig, case: &Case, found: Difference) -> (Case, Difference) {
    let with = |steps: Vec<Step>| Case {
        steps,
        ..case.clone()
    };
    let mut best = with(case.steps[..=found.step].to_vec());
    let mut difference = found;
    let mut runs = 0;
    let mut size = best.steps.len().div_ceil(2);
    loop {
        let mut at = 0;
        let before = best.steps.len();
        while at < best.steps.len() && runs < SHRINK_RUNS_MAX {
            let mut steps = best.steps.clone();
            steps.drain(at..(at + size).min(best.steps.len()));
            runs += 1;
            let smaller = with(steps);
            match rig.run(&smaller) {
                Some(found) => {
                    let steps = smaller.steps[..=found.step].to_vec();
                    (best, difference) = (with(steps), found);
                }
                None => at += size,
            }
        }
        if size == 1 && before == best.steps.len() || runs >= SHRINK_RUNS_MAX {
            return (best, difference);
        }
        size = (size / 2).max(1);
    }
}

/// All states that a session may have.
pub(crate) fn all_states() -> BTreeSet<u8> {
    (0..=u8::MAX)
        .filter(|number| TcpState::from_number(*number).is_some())
        .collect()
}
