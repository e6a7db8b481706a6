//! Every fault at every stage of a move, and from there every interleaving until nothing is left to
//! happen: links heal, killed agents are back, a host that went down comes up again.

use super::*;
use lictor_agent::moves::stage::{Fault, Stage};

impl World {
    fn deliver_to_source(&mut self) {
        let message = self.to_source.pop_front().expect("it was said");
        self.at_source(source::Event::Peer(message));
    }

    fn deliver_to_target(&mut self) {
        let message = self.to_target.pop_front().expect("it was said");
        self.at_target(target::Event::Peer(message));
    }

    /// A move that has come to this stage and has met no trouble.
    fn at(stage: Stage) -> Self {
        let mut w = Self::begin();
        if stage == Stage::Asked {
            w.source = source::Source::default();
            return w;
        }
        for next in Stage::ALL.iter().filter(|next| **next <= stage) {
            w.go(*next);
        }
        w
    }

    fn go(&mut self, stage: Stage) {
        match stage {
            // What stops the guest is QEMU, and neither end does anything that could be lost.
            Stage::Asked | Stage::Admitted | Stage::Stopped => {}
            Stage::Held => {
                self.target_qemu = Qemu::Incoming;
                self.at_target(target::Event::Attached);
            }
            Stage::Copying => self.deliver_to_source(),
            Stage::Copied => {
                self.copying = false;
                self.at_source(source::Event::CopySent);
                self.deliver_to_target();
            }
            Stage::Fenced => {
                self.save();
            }
            Stage::Loading => {
                self.target_qemu = Qemu::Loading;
                self.at_target(target::Event::Load);
            }
            Stage::Asking => self.deliver_to_target(),
            Stage::Granted => self.deliver_to_source(),
            // Between keeping what it needs and opening; see `kill_target`.
            Stage::Opening => {}
            Stage::Opened => self.deliver_to_target(),
            Stage::Runs => {
                self.target_qemu = Qemu::Running;
                self.at_target(target::Event::GuestResumed);
            }
            Stage::Recorded => self.deliver_to_source(),
        }
    }

    fn save(&mut self) {
        self.source_qemu = Qemu::Saving;
        self.at_source(source::Event::Save);
    }

    fn strike(&mut self, stage: Stage, fault: Fault) {
        match fault {
            Fault::SourceAgentKilled => self.kill_source(),
            Fault::TargetAgentKilled => {
                self.kept |= stage == Stage::Opening;
                self.kill_target();
            }
            Fault::SourceQemuKilled => {
                self.source_qemu = Qemu::Gone;
                self.at_source(source::Event::GuestGone);
                self.let_go();
            }
            Fault::TargetQemuKilled => {
                self.target_qemu = Qemu::Gone;
                self.at_target(target::Event::GuestGone);
                if self.target_custody {
                    self.target_open = false;
                }
            }
            // It has no part in a move: agents know each other by the release.
            Fault::ManagerKilled => {}
            Fault::FabricCut => {
                self.linked = false;
                self.to_source.clear();
                self.to_target.clear();
                self.loss_unseen = true;
                self.source_loss_unseen = true;
            }
            // The source goes on, whatever its target is doing.
            Fault::Cancelled => {
                if self.source_qemu == Qemu::Stopped && self.target_qemu != Qemu::Running {
                    self.source_qemu = Qemu::Running;
                    self.at_source(source::Event::GuestResumed);
                }
            }
            Fault::TargetHostDies => self.host_dies(),
        }
        self.check();
    }

    fn kill_source(&mut self) {
        self.to_source.clear();
        self.copying = false;
        self.loss_unseen = true;
        self.restart_source();
    }

    /// The agent comes back with what it has kept. A QEMU whose question was not answered ends.
    fn kill_target(&mut self) {
        self.to_target.clear();
        self.loss_unseen = false;
        self.source_loss_unseen = true;
        let ended = self.target.ended() && !self.target.may_run();
        self.target = match (self.target_custody, self.kept) {
            (true, _) => target::Target::arrived(),
            (false, true) => target::Target::opened(),
            (false, false) => forgotten(),
        };
        assert!(!ended || !self.target.may_run());
        match self.target_qemu {
            Qemu::Loading => {
                self.target_qemu = Qemu::Gone;
                self.at_target(target::Event::GuestGone);
            }
            Qemu::Running => self.at_target(target::Event::GuestResumed),
            _ => {}
        }
    }

    fn host_dies(&mut self) {
        self.down = true;
        self.target_qemu = Qemu::Gone;
        self.target_open = false;
        // The run directory was memory.
        self.kept = false;
        self.to_target.clear();
        self.source_loss_unseen = true;
        self.target = forgotten();
    }

    /// What happens sooner or later after a fault.
    fn later(&self) -> Vec<Self> {
        let mut worlds = if self.down { Vec::new() } else { self.next() };
        if self.down {
            self.source_alone(&mut worlds);
            self.step(&mut worlds, |w| {
                w.down = false;
                w.target = if w.target_custody {
                    target::Target::arrived()
                } else {
                    forgotten()
                };
            });
        }
        if !self.linked {
            self.step(&mut worlds, |w| w.linked = true);
        }
        // What a source has not confirmed is said again.
        let owes = self.target_custody && self.source.phase() == MovePhase::Committed;
        if self.linked && !self.down && owes && !self.to_source.contains(&Message::Complete) {
            self.step(&mut worlds, |w| w.to_source.push_back(Message::Complete));
        }
        worlds
    }

    /// The steps of a source whose target's host is down.
    fn source_alone(&self, worlds: &mut Vec<Self>) {
        let mut alone = self.clone();
        alone.linked = false;
        for mut world in alone.next() {
            let untouched = world.target == self.target && world.target_qemu == self.target_qemu;
            world.linked = self.linked;
            world.to_target.clear();
            if untouched && world != *self {
                worlds.push(world);
            }
        }
    }

    /// Nothing is left to happen.
    fn check_end(&self, stage: Stage) {
        // What had run at the target and ended there has ended; whoever continues the copy that was
        // left at the source starts a guest, which is another matter.
        let ran = self.target_custody;
        if self.source_qemu == Qemu::Running && self.target_qemu != Qemu::Running && !ran {
            assert!(self.source_open, "runs without network: {self:?}");
        }
        if self.target_qemu == Qemu::Running {
            assert!(self.target_open, "runs without network: {self:?}");
            assert_eq!(self.source.phase(), MovePhase::Done, "{self:?}");
        }
        if self.source_qemu == Qemu::Gone && self.target_qemu == Qemu::Gone {
            assert!(!self.source_custody, "can start nowhere: {self:?}");
            assert!(!self.source_open && !self.target_open, "residue: {self:?}");
        }
        // A ticket that the target has not signed is no move yet.
        assert!(
            self.recorded || stage == Stage::Asked,
            "no record: {self:?}"
        );
    }
}

/// What an agent knows that comes back and has kept nothing.
fn forgotten() -> target::Target {
    let mut end = target::Target::default();
    end.handle(target::Event::Peer(Message::Abort));
    end
}

/// When QEMU asks for the guest's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    InTime,
    /// Before the copy is complete, so that it waits.
    Early,
}

fn explore_from((stage, asks): (Stage, Asks), fault: Fault) -> usize {
    let mut begin = World::at(stage);
    if asks == Asks::Early {
        begin.save();
        assert!(begin.source.is_saving());
    }
    begin.strike(stage, fault);
    let mut seen = HashSet::from([begin.clone()]);
    let mut queue = VecDeque::from([begin]);
    let mut ends = 0;
    while let Some(world) = queue.pop_front() {
        let next: Vec<World> = world.later().into_iter().filter(|w| *w != world).collect();
        if next.is_empty() {
            world.check_end(stage);
            ends += 1;
        }
        for world in next {
            assert!(seen.len() < 1_000_000, "the exploration is bounded");
            if seen.insert(world.clone()) {
                queue.push_back(world);
            }
        }
    }
    ends
}

#[test]
fn every_fault_at_every_stage_leaves_one_guest_with_its_network_and_a_record() {
    let stages = || Stage::ALL.iter().copied();
    let in_time = stages().map(|stage| (stage, Asks::InTime));
    let early = stages().filter(|stage| *stage < Stage::Copied);
    let early = early.map(|stage| (stage, Asks::Early));
    for point in in_time.chain(early) {
        for fault in Fault::ALL.iter().copied() {
            let ends = explore_from(point, fault);
            assert!(ends > 0, "{fault:?} at {point:?} comes to no end");
        }
    }
}

#[test]
fn stages_are_listed_once_and_in_order() {
    assert!(Stage::ALL.is_sorted_by(|a, b| a < b));
    let last = World::at(Stage::Recorded);
    assert_eq!(last.source.phase(), MovePhase::Done);
    assert!(last.target_open && last.target_custody && last.recorded);
}
