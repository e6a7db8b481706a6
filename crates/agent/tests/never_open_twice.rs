//! Explores every interleaving of one move: both ends, the messages between them, and what QEMU
//! may do at either side, cancels and deaths included. At no instant are the guest's vnics open on
//! two hosts, and wherever the guest ends up running its vnics are open.

use lictor_agent::moves::{Message, source, target};
use lictor_wire::local::MovePhase;
use std::collections::{HashSet, VecDeque};

#[path = "never_open_twice/stages.rs"]
mod stages;

/// A QEMU process, as far as a move sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Qemu {
    /// Target only: no process yet.
    None,
    /// Target only: waits for the state.
    Incoming,
    /// Target only: inside Load().
    Loading,
    /// Target only: Load() was answered well; the guest may run at any moment.
    Loaded,
    Running,
    /// Source only: stopped, and inside Save().
    Saving,
    /// Source only: stopped for the last part of a migration, its state is sent.
    Stopped,
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    source: source::Source,
    target: target::Target,
    source_open: bool,
    target_open: bool,
    /// The source answers whoever asks that the guest is its own.
    source_custody: bool,
    source_qemu: Qemu,
    target_qemu: Qemu,
    /// The state in QEMU's stream came from an admitted move and not from a snapshot.
    stream_is_move: bool,
    to_source: VecDeque<Message>,
    to_target: VecDeque<Message>,
    copying: bool,
    linked: bool,
    /// How often the source's agent may still be restarted.
    restarts: u8,
    /// The next time that the target opens the vnics the kernel refuses.
    opening_fails: bool,
    /// The target has not noticed yet that a connection was lost.
    loss_unseen: bool,
    /// Nor has the source.
    source_loss_unseen: bool,
    /// The target has kept what it needs if its agent is killed while the guest begins to run.
    kept: bool,
    /// The target has taken custody, durably.
    target_custody: bool,
    /// The source has a record of what became of the move.
    recorded: bool,
    /// The target's host is down.
    down: bool,
    /// How often the source's QEMU may still be killed and started again unseen.
    replacements: u8,
    /// What a QEMU at the source has sent that is no more.
    sent: bool,
    /// Whether there is a third host on which the guest may start.
    third: Third,
}

/// A host that no part of the move is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Third {
    None,
    Free,
    /// The guest was started there, and has its network.
    Open,
}

impl World {
    fn begin() -> Self {
        Self {
            source: admitted(),
            target: target::Target::default(),
            source_open: true,
            target_open: false,
            source_custody: true,
            source_qemu: Qemu::Running,
            target_qemu: Qemu::None,
            stream_is_move: false,
            to_source: VecDeque::new(),
            to_target: VecDeque::new(),
            copying: false,
            linked: true,
            restarts: 0,
            opening_fails: false,
            loss_unseen: false,
            source_loss_unseen: false,
            kept: false,
            target_custody: false,
            recorded: false,
            down: false,
            replacements: 0,
            sent: false,
            third: Third::None,
        }
    }

    fn at_source(&mut self, event: source::Event) {
        for action in self.source.handle(event) {
            match action {
                source::Action::Tell(message) if self.linked => self.to_target.push_back(message),
                source::Action::SendCopy => self.copying = true,
                source::Action::FenceAndSendDelta => {
                    self.source_open = false;
                    self.saved(true);
                }
                source::Action::AnswerSnapshot => self.saved(false),
                source::Action::Unfence => {
                    self.source_open = true;
                    self.source_custody = true;
                }
                source::Action::Forget => {
                    assert!(!self.source_open, "forgets only when fenced");
                    self.source_custody = false;
                    self.recorded = true;
                }
                source::Action::LetGo | source::Action::Disown => {
                    assert!(!self.source_open, "lets go only when fenced");
                    self.source_custody = false;
                }
                source::Action::RecordAborted => self.recorded = true,
                source::Action::Tell(_) => {}
            }
        }
        self.settle_source();
        self.check();
    }

    fn saved(&mut self, is_move: bool) {
        self.stream_is_move = is_move;
        if self.source_qemu == Qemu::Saving {
            self.source_qemu = Qemu::Stopped;
        }
    }

    fn at_target(&mut self, event: target::Event) {
        for action in self.target.handle(event) {
            match action {
                target::Action::Tell(message) if self.linked => self.to_source.push_back(message),
                target::Action::Open if self.opening_fails => {
                    self.opening_fails = false;
                    return self.at_target(target::Event::NotOpened);
                }
                target::Action::Open => {
                    self.kept = true;
                    self.target_open = true;
                }
                target::Action::HoldAndPurge => {
                    self.kept = false;
                    self.target_open = false;
                }
                target::Action::TakeCustody => self.target_custody = true,
                target::Action::AnswerLoaded => self.target_qemu = Qemu::Loaded,
                target::Action::AnswerFailed if self.target_qemu == Qemu::Loading => {
                    self.target_qemu = Qemu::Gone;
                }
                _ => {}
            }
        }
        self.check();
    }

    fn check(&self) {
        let third = self.third == Third::Open;
        let open = [self.source_open, self.target_open, third];
        let open = open.into_iter().filter(|open| *open).count();
        assert!(open <= 1, "open on two hosts: {self:?}");
    }

    /// What runs at the source, and is its own, is opened unless it is fenced.
    fn settle_source(&mut self) {
        let runs = self.source_qemu == Qemu::Running;
        self.source_open |= runs && self.source_custody && !self.is_fenced();
    }

    fn is_fenced(&self) -> bool {
        let phase = self.source.phase();
        matches!(phase, MovePhase::Fenced | MovePhase::Committed)
    }

    /// The source has given custody up of a guest that it had let go: whoever starts it asks every
    /// host, and starts it if none has it. At the source, too: there it is opened once the move is
    /// over.
    fn starts_elsewhere(&self, worlds: &mut Vec<Self>) {
        let disowned = self.source.phase() == MovePhase::Committed && !self.source_custody;
        let free = self.third == Third::Free && !self.target.may_run();
        if disowned && self.source_qemu == Qemu::Gone && self.third != Third::None {
            self.step(worlds, |w| {
                w.source_qemu = Qemu::Running;
                w.source_custody = free;
                w.at_source(source::Event::GuestResumed);
            });
        }
        if disowned && free {
            self.step(worlds, |w| {
                w.third = Third::Open;
                w.check();
            });
        }
    }

    /// Every world that one step of anybody leads to.
    fn next(&self) -> Vec<Self> {
        let mut worlds = Vec::new();
        self.deliveries(&mut worlds);
        self.qemu_steps(&mut worlds);
        self.management_steps(&mut worlds);
        self.restart_steps(&mut worlds);
        self.starts_elsewhere(&mut worlds);
        worlds
    }

    /// The source's agent is killed and started again: it forgets its machine, and finds its
    /// guest's vnics as they are pinned. What was on its way to it is lost, what it had said
    /// arrives.
    fn restart_steps(&self, worlds: &mut Vec<Self>) {
        if self.restarts > 0 {
            self.step(worlds, |w| {
                w.restarts -= 1;
                w.to_source.clear();
                w.copying = false;
                w.loss_unseen = true;
                w.restart_source();
            });
        }
        if self.loss_unseen {
            self.step(worlds, |w| {
                w.loss_unseen = false;
                w.at_target(target::Event::PeerLost);
            });
        }
        if self.source_loss_unseen {
            self.step(worlds, |w| {
                w.source_loss_unseen = false;
                if w.source.phase() < MovePhase::Fenced {
                    w.at_source(source::Event::Peer(Message::Nack));
                }
            });
        }
        // What was let go to a host that is not heard of is given up when the ticket lapses.
        if self.source.is_missing() && self.source_custody {
            self.step(worlds, |w| w.at_source(source::Event::Lapsed));
        }
        // A source that does not know who has the guest asks, and the answer takes its time.
        let asks = self.source.must_ask() && !self.target.may_run();
        if self.linked && !self.down && asks && !self.to_source.contains(&Message::Released) {
            self.step(worlds, |w| w.to_source.push_back(Message::Released));
        }
    }

    /// A guest that ends where it is not fenced takes custody with it, as always.
    fn let_go(&mut self) {
        if !self.is_fenced() {
            self.source_open = false;
            self.source_custody = false;
        }
    }

    /// The guest is started again where it was to leave, with a device that begins in hold, and
    /// nobody has seen the first QEMU end. It is opened if it is this host's and not fenced.
    fn replace_source(&mut self) {
        self.sent |= self.source_qemu == Qemu::Stopped;
        if self.source.phase() < MovePhase::Fenced {
            self.at_source(source::Event::GuestGone);
        }
        self.source_qemu = Qemu::Running;
        self.source_open = false;
        self.at_source(source::Event::GuestResumed);
    }

    fn restart_source(&mut self) {
        // Nobody answers its question any more: the migration fails, and the guest goes on.
        if self.source_qemu == Qemu::Saving {
            self.source_qemu = Qemu::Running;
        }
        match self.source.phase() {
            MovePhase::Done | MovePhase::Aborted => {}
            _ if self.source_open => {
                self.source = admitted();
                self.at_source(source::Event::Abandon);
            }
            _ => {
                self.source = match self.source_custody {
                    true => source::Source::restarted(),
                    false => source::Source::disowned(),
                };
                match self.source_qemu {
                    Qemu::Running => self.at_source(source::Event::GuestResumed),
                    Qemu::Gone => {
                        self.at_source(source::Event::GuestGone);
                        self.let_go();
                    }
                    _ => {}
                }
            }
        }
    }

    fn step(&self, worlds: &mut Vec<Self>, change: impl FnOnce(&mut Self)) {
        let mut world = self.clone();
        change(&mut world);
        worlds.push(world);
    }

    fn deliveries(&self, worlds: &mut Vec<Self>) {
        if !self.to_source.is_empty() {
            self.step(worlds, |w| {
                let message = w.to_source.pop_front().expect("not empty");
                w.at_source(source::Event::Peer(message));
            });
        }
        if !self.to_target.is_empty() {
            self.step(worlds, |w| {
                let message = w.to_target.pop_front().expect("not empty");
                w.at_target(target::Event::Peer(message));
            });
        }
        if self.copying {
            self.step(worlds, |w| {
                w.copying = false;
                w.at_source(source::Event::CopySent);
            });
        }
    }

    fn qemu_steps(&self, worlds: &mut Vec<Self>) {
        if self.target_qemu == Qemu::None {
            self.step(worlds, |w| {
                w.target_qemu = Qemu::Incoming;
                w.at_target(target::Event::Attached);
            });
        }
        if self.source_qemu == Qemu::Running && self.target_qemu == Qemu::Incoming {
            self.step(worlds, |w| {
                w.source_qemu = Qemu::Saving;
                w.at_source(source::Event::Save);
            });
        }
        if self.source_qemu == Qemu::Saving {
            self.step(worlds, |w| w.at_source(source::Event::SaveLate));
        }
        let sent = self.source_qemu == Qemu::Stopped || self.sent;
        if sent && self.target_qemu == Qemu::Incoming {
            self.step(worlds, |w| {
                w.target_qemu = Qemu::Loading;
                let event = if w.stream_is_move {
                    target::Event::Load
                } else {
                    target::Event::LoadForeign
                };
                w.at_target(event);
            });
        }
        if self.target_qemu == Qemu::Loaded {
            self.step(worlds, |w| {
                w.target_qemu = Qemu::Running;
                w.at_target(target::Event::GuestResumed);
            });
        }
        if self.target_qemu == Qemu::Loading {
            self.step(worlds, |w| w.at_target(target::Event::Deadline));
        }
        if matches!(
            self.target_qemu,
            Qemu::Incoming | Qemu::Loading | Qemu::Loaded
        ) {
            self.step(worlds, |w| {
                w.target_qemu = Qemu::Gone;
                w.at_target(target::Event::GuestGone);
            });
        }
    }

    /// The source goes on when the target has failed, and also when a person cancels while Load()
    /// runs or just after: then two QEMUs may run the guest for a moment, and its vnics decide who
    /// is heard.
    fn management_steps(&self, worlds: &mut Vec<Self>) {
        if self.source_qemu == Qemu::Stopped
            && matches!(
                self.target_qemu,
                Qemu::Gone | Qemu::Incoming | Qemu::Loading
            )
        {
            self.step(worlds, |w| {
                w.source_qemu = Qemu::Running;
                if w.target_qemu == Qemu::Incoming {
                    w.target_qemu = Qemu::Gone;
                    w.at_target(target::Event::GuestGone);
                }
                w.at_source(source::Event::GuestResumed);
            });
        }
        if matches!(self.source_qemu, Qemu::Stopped | Qemu::Saving) {
            self.step(worlds, |w| {
                w.source_qemu = Qemu::Gone;
                w.at_source(source::Event::GuestGone);
                w.let_go();
            });
        }
        if self.replacements > 0 && self.source_custody {
            self.step(worlds, |w| {
                w.replacements -= 1;
                w.replace_source();
            });
        }
        for event in [source::Event::Abandon, source::Event::Lapsed] {
            if self.source.phase() < MovePhase::Fenced {
                self.step(worlds, |w| w.at_source(event));
            }
        }
    }

    /// Nothing is under way any more: the guest must have its network where it runs.
    fn check_at_rest(&self) {
        let quiet = self.to_source.is_empty() && self.to_target.is_empty() && !self.copying;
        if quiet
            && self.linked
            && self.source_qemu == Qemu::Running
            && self.target_qemu == Qemu::Gone
        {
            assert!(
                self.source_open,
                "the guest runs at the source without network: {self:?}"
            );
        }
        let ended = self.source_qemu == Qemu::Gone && self.target_qemu == Qemu::Gone;
        if self.next().is_empty() && ended {
            assert!(
                !self.source_custody,
                "the guest is gone and can start nowhere else: {self:?}"
            );
        }
        if quiet && self.target_qemu == Qemu::Running {
            assert!(
                self.target_open,
                "the guest runs at the target without network: {self:?}"
            );
            assert_eq!(self.source.phase(), MovePhase::Done, "{self:?}");
        }
    }
}

/// A source whose ticket the target has signed.
fn admitted() -> source::Source {
    let mut end = source::Source::default();
    assert_eq!(end.handle(source::Event::Admitted), []);
    end
}

fn explore(begin: World, with_cut: bool) -> Vec<World> {
    let mut seen = HashSet::from([begin.clone()]);
    let mut queue = VecDeque::from([begin]);
    while let Some(world) = queue.pop_front() {
        let mut next = world.next();
        if with_cut && world.linked {
            world.step(&mut next, |w| {
                w.linked = false;
                w.to_source.clear();
                w.to_target.clear();
                w.at_target(target::Event::PeerLost);
            });
        }
        for world in next {
            assert!(seen.len() < 1_000_000, "the exploration is bounded");
            if seen.insert(world.clone()) {
                queue.push_back(world);
            }
        }
    }
    seen.into_iter().collect()
}

#[test]
fn no_interleaving_opens_a_guest_on_two_hosts_or_leaves_it_without_network() {
    let worlds = explore(World::begin(), false);
    worlds.iter().for_each(World::check_at_rest);
    let reached = |wanted: fn(&World) -> bool| worlds.iter().any(wanted);
    // The exploration is worth something only if it reaches both ends of a move.
    assert!(reached(
        |w| w.source.phase() == MovePhase::Done && w.target_open
    ));
    assert!(reached(
        |w| w.source.phase() == MovePhase::Aborted && w.source_open
    ));
    assert!(reached(
        |w| w.source.phase() == MovePhase::Committed && w.source_qemu == Qemu::Running
    ));
}

#[test]
fn a_target_that_cannot_open_leaves_the_guest_at_its_source_with_its_network() {
    let begin = World {
        opening_fails: true,
        ..World::begin()
    };
    let worlds = explore(begin, false);
    worlds.iter().for_each(World::check_at_rest);
    let failed = |w: &World| !w.opening_fails;
    assert!(
        worlds
            .iter()
            .any(|w| failed(w) && w.source_qemu == Qemu::Running && w.source_open)
    );
    assert!(!worlds.iter().any(|w| failed(w) && w.target_open));
}

#[test]
fn nothing_that_a_target_says_before_it_has_signed_counts() {
    let mut end = source::Source::default();
    for message in [Message::Ready, Message::Nack, Message::Complete] {
        assert_eq!(end.handle(source::Event::Peer(message)), []);
    }
    assert_eq!(
        end.handle(source::Event::Abandon),
        [source::Action::Tell(Message::Abort)]
    );
    assert_eq!(end.handle(source::Event::Admitted), []);
    assert_eq!(end.phase(), MovePhase::Aborted);
}

#[test]
fn sessions_count_only_between_hold_and_the_delta() {
    let mut end = target::Target::default();
    let mut takes = vec![end.takes_sessions()];
    for event in [
        target::Event::Attached,
        target::Event::Peer(Message::Delta),
        target::Event::Load,
        target::Event::Peer(Message::Granted),
    ] {
        end.handle(event);
        takes.push(end.takes_sessions());
    }
    assert_eq!(takes, [false, true, false, false, false]);
}

#[test]
fn too_many_sessions_end_the_move_before_qemu_is_there() {
    let mut end = target::Target::default();
    end.handle(target::Event::Attached);
    assert_eq!(
        end.handle(target::Event::Mismatch),
        [
            target::Action::Tell(Message::Nack),
            target::Action::HoldAndPurge
        ]
    );
}

#[test]
fn a_connection_lost_at_any_instant_never_opens_a_guest_on_two_hosts() {
    let worlds = explore(World::begin(), true);
    assert!(
        worlds
            .iter()
            .any(|w| !w.linked && w.source.phase() == MovePhase::Committed)
    );
    for world in worlds
        .iter()
        .filter(|w| !w.linked && w.target_qemu == Qemu::Running)
    {
        assert!(world.target_open && !world.source_open, "{world:?}");
    }
}

#[test]
fn a_source_that_is_restarted_at_any_instant_never_opens_beside_the_target() {
    let begin = World {
        restarts: 2,
        ..World::begin()
    };
    let worlds = explore(begin, false);
    let ended = worlds.iter().filter(|w| w.next().is_empty());
    let (mut here, mut there) = (0, 0);
    for world in ended {
        match (world.source_qemu, world.target_qemu) {
            (Qemu::Running, Qemu::Gone) => {
                assert!(world.source_open, "runs without network: {world:?}");
                here += 1;
            }
            (_, Qemu::Running) => {
                assert!(
                    world.target_open && !world.source_open,
                    "runs without network: {world:?}"
                );
                there += 1;
            }
            _ => {}
        }
    }
    assert!(
        here > 0 && there > 0,
        "{here} at the source, {there} at the target"
    );
}

#[test]
fn a_qemu_that_is_replaced_unseen_at_any_instant_never_opens_its_guest_on_two_hosts() {
    let begin = World {
        replacements: 2,
        ..World::begin()
    };
    let worlds = explore(begin, false);
    worlds.iter().for_each(World::check_at_rest);
    let replaced = || worlds.iter().filter(|w| w.replacements == 0);
    let here = |w: &World| w.source.phase() == MovePhase::Aborted && w.source_open;
    assert!(replaced().any(here) && replaced().any(|w| w.target_open));
}

#[test]
fn a_guest_that_was_given_up_and_is_started_twice_is_never_open_on_two_hosts() {
    for restarts in [0, 1] {
        let begin = World {
            third: Third::Free,
            restarts,
            ..World::begin()
        };
        let worlds = explore(begin, false);
        let reached = |wanted: fn(&World) -> bool| worlds.iter().any(wanted);
        let over = |w: &World| w.source.phase() == MovePhase::Aborted;
        assert!(reached(|w| w.third == Third::Open));
        // Its second life at the source is heard once the target has said that it has none.
        let mut again = worlds.iter().filter(|w| w.source_open && over(w));
        assert!(again.any(|w| w.target_qemu == Qemu::Gone && w.recorded));
        // One that is somebody else's is not.
        let mut held = worlds.iter().filter(|w| w.third == Third::Open && over(w));
        assert!(held.any(|w| w.source_qemu == Qemu::Running && !w.source_open));
    }
}

#[test]
fn a_target_whose_guest_ends_before_it_was_in_hold_gives_the_move_up() {
    let mut end = target::Target::default();
    let given_up = [
        target::Action::Tell(Message::Nack),
        target::Action::HoldAndPurge,
    ];
    assert_eq!(end.handle(target::Event::GuestGone), given_up);
    assert!(end.ended());
}

/// Whatever else is said and lost, the source forgets only when its target says that the guest runs
/// there, and only after it had let it go.
#[test]
fn trap_5_a_source_forgets_only_when_its_target_has_confirmed() {
    let complete = source::Event::Peer(Message::Complete);
    let mut end = admitted();
    for event in [
        source::Event::Peer(Message::Ready),
        source::Event::CopySent,
        source::Event::Save,
        source::Event::Peer(Message::Commit),
    ] {
        let forgot = |end: &mut source::Source, event| {
            let actions = end.handle(event);
            actions.contains(&source::Action::Forget)
        };
        assert!(!forgot(&mut end, complete), "before {event:?}");
        assert!(!forgot(&mut end, event), "{event:?}");
    }
    assert_eq!(end.handle(source::Event::Peer(Message::Ready)), []);
    assert_eq!(end.handle(complete), [source::Action::Forget]);
    assert_eq!(end.handle(complete), []);
}

/// A source at each point before its copy is complete, as the events that lead there.
fn before_the_copy_is_complete() -> [Vec<source::Event>; 3] {
    let all = [source::Event::Admitted, source::Event::Peer(Message::Ready)];
    [0, 1, 2].map(|count| all[..count].to_vec())
}

/// A migration may begin before anybody has asked for the move.
#[test]
fn a_guest_that_is_saved_too_early_waits_for_its_copy_and_no_longer_than_its_limit() {
    use source::{Action, Event};
    let fence = [
        Action::Tell(Message::Copied),
        Action::FenceAndSendDelta,
        Action::Tell(Message::Delta),
    ];
    let all = [Event::Admitted, Event::Peer(Message::Ready)];
    for before in before_the_copy_is_complete() {
        let mut end = source::Source::default();
        before.iter().for_each(|event| drop(end.handle(*event)));
        assert_eq!(end.handle(Event::Save), [], "{before:?}");
        assert!(end.is_saving());
        let mut late = end;
        assert_eq!(late.handle(Event::SaveLate), [Action::AnswerSnapshot]);
        assert!(!late.is_saving());
        let mut given_up = end;
        assert!(
            given_up
                .handle(Event::Abandon)
                .ends_with(&[Action::AnswerSnapshot])
        );
        for event in &all[before.len()..] {
            end.handle(*event);
        }
        assert_eq!(end.handle(Event::CopySent), fence, "{before:?}");
        assert!(!end.is_saving());
    }
}

#[test]
fn a_snapshot_of_a_guest_whose_move_is_over_fences_nothing() {
    let mut end = admitted();
    end.handle(source::Event::Abandon);
    assert_eq!(
        end.handle(source::Event::Save),
        [source::Action::AnswerSnapshot]
    );
    assert_eq!(end.phase(), MovePhase::Aborted);
}

#[test]
fn a_commit_is_granted_once_and_only_while_fenced() {
    let ask = source::Event::Peer(Message::Commit);
    let refused = [source::Action::Tell(Message::Refused)];
    let mut end = admitted();
    assert_eq!(end.handle(ask), refused);
    for event in [
        source::Event::Peer(Message::Ready),
        source::Event::CopySent,
        source::Event::Save,
    ] {
        end.handle(event);
    }
    assert_eq!(end.handle(ask), [source::Action::Tell(Message::Granted)]);
    assert_eq!(end.handle(ask), refused);
}
