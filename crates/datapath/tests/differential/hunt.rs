//! Many cases on several rigs at once, each in a thread, a network namespace and a BPF file system
//! of its own.

use crate::generate::{Case, case, case_without_release};
use crate::rig::{Difference, Reached, Rig, shrink};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// More than the processors: a load of tables mostly waits.
const RIGS: usize = 4;
const STEPS_PER_CASE: usize = 2_000;
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// How long to go on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// This many packets, or a few more.
    Packets(usize),
    /// This moment. Progress is told.
    Moment(Instant),
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The first seed that was not tried.
    pub(crate) next: u64,
    pub(crate) reached: Reached,
    /// The first difference, shrunk.
    pub(crate) difference: Option<String>,
}

struct Hunt {
    until: Until,
    seed: AtomicU64,
    packets: AtomicUsize,
    difference: Mutex<Option<String>>,
    began: Instant,
}

impl Hunt {
    fn goes_on(&self) -> bool {
        let found = self.difference.lock().expect("no rig panicked").is_some();
        let more = match self.until {
            Until::Packets(packets) => self.packets.load(SeqCst) < packets,
            Until::Moment(moment) => Instant::now() < moment,
        };
        more && !found
    }

    fn tell(&self, rig: &mut Rig, seed: u64, (case, found): (&Case, Difference)) {
        let mut told = self.difference.lock().expect("no rig panicked");
        if told.is_none() {
            let (least, difference) = shrink(rig, case, found);
            let steps: Vec<_> = least.steps.iter().map(|step| format!("{step:?}")).collect();
            // The tables stay out of it: the seed gives them.
            *told = Some(format!(
                "kernel and model differ; run again with LICTOR_SEED={seed}\n{}\n{}",
                steps.join("\n"),
                difference.text
            ));
        }
    }

    fn work(&self, number: usize) -> Reached {
        let mut rig = Rig::new();
        if number == 0 {
            let seed = self.seed.load(SeqCst);
            let case = case_without_release(seed, STEPS_PER_CASE);
            if let Some(found) = rig.run(&case) {
                self.tell(&mut rig, seed, (&case, found));
            }
        }
        let mut told = Instant::now();
        while self.goes_on() {
            let seed = self.seed.fetch_add(1, SeqCst);
            let case = case(seed, STEPS_PER_CASE);
            let before = rig.reached.packets;
            if let Some(found) = rig.run(&case) {
                self.tell(&mut rig, seed, (&case, found));
            }
            self.packets.fetch_add(rig.reached.packets - before, SeqCst);
            let talks = number == 0 && matches!(self.until, Until::Moment(_));
            if talks && told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                eprintln!(
                    "{:6} s  {:10} packets, next seed {}",
                    self.began.elapsed().as_secs(),
                    self.packets.load(SeqCst),
                    self.seed.load(SeqCst)
                );
            }
        }
        rig.reached
    }
}

/// Tries cases from this seed on, until a difference is found.
pub(crate) fn hunt(first: u64, until: Until) -> Found {
    let hunt = Hunt {
        until,
        seed: AtomicU64::new(first),
        packets: AtomicUsize::new(0),
        difference: Mutex::new(None),
        began: Instant::now(),
    };
    let mut reached = Reached::default();
    std::thread::scope(|scope| {
        let work = |number| {
            let hunt = &hunt;
            scope.spawn(move || hunt.work(number))
        };
        let rigs: Vec<_> = (0..RIGS).map(work).collect();
        for rig in rigs {
            reached.add(rig.join().expect("a rig ends"));
        }
    });
    Found {
        next: hunt.seed.load(SeqCst),
        reached,
        difference: hunt.difference.into_inner().expect("no rig panicked"),
    }
}
