//! The format before the newest one: its bytes are those that its own version wrote, before this
//! one existed. Whoever changes a type that it shares with the newest format learns of it here.

use lictor_evidence::ControlFact;
use lictor_types::{
    Counted, Digest, Direction, Epoch, Generation, GuestId, Reason, RuleId, Segment, SessionKey,
    SessionRecord, Tally, TcpEnd, TcpState, VnicId,
};
use lictor_wire::peer::{Control, Format, Frame, FrameError, HEADER_BYTES, Step};
use lictor_wire::sessions::Chunk;
use lictor_wire::{Envelope, Refusal};
use std::net::IpAddr;

/// One line for each of [`frames`]: a control message as it is, sessions as hexadecimal digits.
const GOLDEN: &str = include_str!("golden/format4.txt");

fn envelope() -> Envelope {
    let text = r#"{"payloadType":"application/test","payload":"e30=",
                   "signatures":[{"keyid":"a","sig":"AA=="}]}"#;
    serde_json::from_str(text).expect("an envelope")
}

fn record(port: u16) -> SessionRecord {
    SessionRecord {
        key: SessionKey {
            segment: Segment(1),
            protocol: 6,
            local: IpAddr::from([10, 77, 0, 10]),
            remote: IpAddr::from([10, 77, 0, 100]),
            local_port: port,
            remote_port: 40_000,
        },
        opened: Direction::Ingress,
        state: TcpState::Established,
        rule: RuleId(7),
        generation: Generation(3),
        local_epoch: Epoch(1),
        remote_epoch: Epoch(2),
        idle_ms: 5,
        expires_in_ms: 60_000,
        packets: [1, 2],
        bytes: [3, 4],
        tcp: [TcpEnd::default(); 2],
    }
}

fn tally(number: u64) -> Tally {
    Tally {
        packets: number,
        bytes: number,
        sessions: number,
        observed: number,
    }
}

/// Every message of format 4.
fn frames(format: u32) -> Vec<Frame> {
    let guest = || GuestId::new("web").expect("a valid name");
    let ticket = Digest([7; 32]);
    let control = |name: &str| ControlFact {
        control: name.into(),
        version: "1".into(),
        healthy: true,
    };
    let (controls, bindings) = (vec![control("firewall")], Epoch(9));
    let reasons = vec![
        Refusal::HostUnprotected { detail: "d".into() },
        Refusal::HostUnknown,
        Refusal::HostNotAllowed,
        Refusal::ReleaseDiffers {
            source: Generation(1),
            target: Generation(2),
        },
        Refusal::ControlMissing {
            control: "ids".into(),
        },
        Refusal::NoRoom { detail: "d".into() },
        Refusal::GuestUnknown,
        Refusal::NotInCustody { detail: "d".into() },
        Refusal::Unguarded { detail: "d".into() },
        Refusal::Format { detail: "d".into() },
        Refusal::Busy { detail: "d".into() },
    ];
    let said = [
        Control::Custody { guest: guest() },
        Control::CustodyHeld {
            guest: guest(),
            held: true,
            cut: false,
            epoch: 3,
        },
        Control::Admit {
            format,
            bindings,
            ticket: envelope(),
        },
        Control::Admitted {
            ticket: envelope(),
            controls: controls.clone(),
        },
        Control::NotAdmitted {
            ticket,
            reasons: reasons.clone(),
        },
        Control::Check {
            format,
            bindings,
            ticket: envelope(),
        },
        Control::Checked {
            ticket,
            reasons: vec![],
            controls,
        },
    ];
    let vnic = VnicId(4);
    let rows = vec![
        (Counted::Steered(Direction::Egress), tally(1)),
        (
            Counted::Reason(Direction::Ingress, Reason::Session),
            tally(2),
        ),
        (Counted::Rule(RuleId(7)), tally(u64::MAX)),
    ];
    let cause = || "why".to_owned();
    let steps = [
        Step::Ready,
        Step::Copied,
        Step::Gone {
            vnic,
            table: 2,
            slots: vec![1, u32::MAX],
        },
        Step::Round { number: 1 },
        Step::Taken { chunks: 9 },
        Step::Counted { vnic, rows },
        Step::Delta,
        Step::Commit,
        Step::Granted { fenced_us: 812 },
        Step::Refused,
        Step::Nack { cause: cause() },
        Step::Released,
        Step::Complete {
            record: envelope(),
            save: envelope(),
        },
        Step::Recorded { record: envelope() },
        Step::Abort { cause: cause() },
    ];
    let steps = steps.map(|step| Control::Move { ticket, step });
    let controls = said.into_iter().chain(steps).map(Frame::Control);
    let sessions = Frame::Sessions {
        ticket,
        vnic,
        chunk: Chunk::of(0, &[(1, record(1)), (2, record(2))]),
    };
    controls.chain([sessions]).collect()
}

fn line(bytes: &[u8]) -> String {
    let body = &bytes[HEADER_BYTES..];
    match std::str::from_utf8(body) {
        Ok(text) if text.starts_with('{') => text.to_owned(),
        _ => body.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[test]
fn every_message_has_the_bytes_that_an_agent_of_format_4_writes_and_reads() {
    let lines: Vec<&str> = GOLDEN.lines().collect();
    // What an agent of this version says has its own number in memory.
    let (ours, theirs) = (frames(5), frames(4));
    assert_eq!(lines.len(), theirs.len());
    for ((ours, theirs), golden) in ours.into_iter().zip(theirs).zip(lines) {
        let bytes = ours.encode(Format::Four).expect("it has words");
        assert_eq!(line(&bytes), golden);
        assert_eq!(Frame::decode(Format::Four, &bytes[4..]), Ok(theirs));
    }
}

#[test]
fn what_is_new_cannot_be_said_in_format_4_and_is_not_read_there() {
    let guest = GuestId::new("web").expect("a valid name");
    let reasons = vec![Refusal::HostUnknown];
    let new = [
        Control::Wanted {
            guest: guest.clone(),
        },
        Control::NotHandedOver { guest, reasons },
        Control::Evacuated { order: envelope() },
    ];
    for frame in new.map(Frame::Control) {
        let unsayable = Err(FrameError::Unsayable(4));
        assert_eq!(frame.encode(Format::Four), unsayable);
        let bytes = frame.encode(Format::Five).expect("it has words");
        assert_eq!(Frame::decode(Format::Five, &bytes[4..]), Ok(frame));
        let read = Frame::decode(Format::Four, &bytes[4..]);
        assert!(matches!(read, Err(FrameError::Control(_))), "{read:?}");
    }
}

#[test]
fn an_agent_that_names_no_format_speaks_format_4() {
    assert_eq!(Format::agreed(None), Some(Format::Four));
    assert_eq!(Format::agreed(Some(b"lictor/5")), Some(Format::Five));
    assert_eq!(Format::agreed(Some(b"lictor/6")), None);
    assert_eq!(Format::Four.named(), Vec::<Vec<u8>>::new());
    assert_eq!(
        Format::Five.named(),
        [b"lictor/5", b"lictor/4"].map(|name| name.to_vec())
    );
    for (number, known) in [(3, false), (4, true), (5, true), (6, false)] {
        assert_eq!(Format::of(number).is_some(), known, "{number}");
    }
}
