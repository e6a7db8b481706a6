//! D-Bus, as much of it as QEMU's `dbus-vmstate` speaks with its peer: the server's side of the
//! handshake, the questions of GLib's client, and answers to them (D-Bus specification 1.0,
//! "Authentication Protocol" and "Message Protocol"). Pure: bytes in, bytes out. A general
//! implementation needs a runtime whose threads wake each other for every message, and in the
//! pause of a move each of them is waited for.

use lictor_types::VMSTATE_BYTES_MAX;

/// The largest message: the guest's record and what names it.
const MESSAGE_BYTES_MAX: usize = VMSTATE_BYTES_MAX + 4_096;
/// The longest line of the handshake.
const LINE_BYTES_MAX: usize = 1_024;
/// What every message begins with: the kind, the lengths of what follows, the serial number.
const FIXED_BYTES: usize = 16;
const PROTOCOL: u8 = 1;

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const NO_REPLY: u8 = 1;

const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const SIGNATURE: u8 = 8;

const FAILED: &str = "org.freedesktop.DBus.Error.Failed";
const UNKNOWN: &str = "org.freedesktop.DBus.Error.UnknownMethod";

/// Why what has come is no conversation with a QEMU.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DbusError {
    #[error("the handshake: expected {expected}")]
    Handshake { expected: &'static str },
    #[error("a message at byte {at}: expected {expected}")]
    Message { at: usize, expected: &'static str },
}

/// What QEMU wants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A line of the handshake, which is answered by this.
    Greeting(&'static str),
    /// The handshake is over.
    Begun,
    Call(Call),
}

/// One question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Call {
    serial: u32,
    /// Whether an answer is wanted.
    pub(crate) answered: bool,
    pub(crate) method: Method,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Hello,
    OwnersOf,
    OwnerOf,
    HasOwner,
    Start,
    /// Which signals are wanted; there are none. GLib does not wait for the answer.
    Match,
    Properties,
    Save,
    Load(Vec<u8>),
    Other(String),
}

impl Method {
    fn of(interface: &str, member: &str, body: Body<'_>) -> Result<Self, DbusError> {
        Ok(match (interface, member) {
            ("org.freedesktop.DBus", "Hello") => Self::Hello,
            ("org.freedesktop.DBus", "ListQueuedOwners") => Self::OwnersOf,
            ("org.freedesktop.DBus", "GetNameOwner") => Self::OwnerOf,
            ("org.freedesktop.DBus", "NameHasOwner") => Self::HasOwner,
            ("org.freedesktop.DBus", "StartServiceByName") => Self::Start,
            ("org.freedesktop.DBus", "AddMatch" | "RemoveMatch") => Self::Match,
            ("org.freedesktop.DBus.Properties", "GetAll") => Self::Properties,
            ("org.qemu.VMState1", "Save") => Self::Save,
            ("org.qemu.VMState1", "Load") => Self::Load(body.bytes()?),
            _ => Self::Other(format!("{interface}.{member}")),
        })
    }
}

/// What a question is answered with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer<'a> {
    Nothing,
    Text(&'a str),
    Texts(&'a [&'a str]),
    Truth,
    Number(u32),
    /// The one property.
    Property(&'a str, &'a str),
    Bytes(&'a [u8]),
    Failed(&'a str),
    /// Nobody here knows such a question.
    Unknown(&'a str),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A byte that is nothing comes before the first line.
    #[default]
    Before,
    Lines,
    Messages,
}

/// One end of a conversation: what has come of it and is not understood yet.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    stage: Stage,
    bytes: Vec<u8>,
    serial: u32,
}

impl Talk {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next that is whole.
    pub(crate) fn next(&mut self) -> Result<Option<Said>, DbusError> {
        match self.stage {
            Stage::Before => match self.bytes.first() {
                None => Ok(None),
                Some(0) => {
                    self.bytes.drain(..1);
                    self.stage = Stage::Lines;
                    self.next()
                }
                Some(_) => Err(DbusError::Handshake { expected: "a null" }),
            },
            Stage::Lines => self.line(),
            Stage::Messages => self.message(),
        }
    }

    fn line(&mut self) -> Result<Option<Said>, DbusError> {
        let end = self.bytes.windows(2).position(|two| two == b"\r\n");
        let Some(end) = end.filter(|end| *end <= LINE_BYTES_MAX) else {
            if self.bytes.len() > LINE_BYTES_MAX {
                let expected = "lines of at most 1,024 bytes";
                return Err(DbusError::Handshake { expected });
            }
            return Ok(None);
        };
        let line: Vec<u8> = self.bytes.drain(..end + 2).take(end).collect();
        // Who may connect is the socket's business. It passes no descriptors.
        Ok(Some(match line.as_slice() {
            b"BEGIN" => {
                self.stage = Stage::Messages;
                Said::Begun
            }
            b"AUTH EXTERNAL" => Said::Greeting("DATA\r\n"),
            line if line.starts_with(b"AUTH EXTERNAL ") || line.starts_with(b"DATA") => {
                Said::Greeting("OK 6c6963746f7200000000000000000000\r\n")
            }
            line if line.starts_with(b"AUTH") || line.starts_with(b"CANCEL") => {
                Said::Greeting("REJECTED EXTERNAL\r\n")
            }
            _ => Said::Greeting("ERROR\r\n"),
        }))
    }

    fn message(&mut self) -> Result<Option<Said>, DbusError> {
        loop {
            let Some(length) = length(&self.bytes)? else {
                return Ok(None);
            };
            let Some(message) = self.bytes.get(..length) else {
                return Ok(None);
            };
            let call = call(message);
            self.bytes.drain(..length);
            if let Some(call) = call? {
                return Ok(Some(Said::Call(call)));
            }
        }
    }

    /// Appends an answer.
    pub(crate) fn answer(&mut self, call: &Call, answer: Answer<'_>, out: &mut Vec<u8>) {
        if !call.answered {
            return;
        }
        self.serial = self.serial.wrapping_add(1).max(1);
        let (signature, body) = answer.body();
        let kind = match answer {
            Answer::Failed(_) | Answer::Unknown(_) => ERROR,
            _ => RETURN,
        };
        let mut message = Writer(vec![b'l', kind, NO_REPLY, PROTOCOL]);
        message.number(body.len() as u32);
        message.number(self.serial);
        // The length of the fields, known below.
        message.number(0);
        message.field(REPLY_SERIAL, "u", |field| field.number(call.serial));
        match answer {
            Answer::Failed(_) => message.field(ERROR_NAME, "s", |field| field.text(FAILED)),
            Answer::Unknown(_) => message.field(ERROR_NAME, "s", |field| field.text(UNKNOWN)),
            _ => {}
        }
        if !signature.is_empty() {
            message.field(SIGNATURE, "g", |field| field.signature(signature));
        }
        let fields = (message.0.len() - FIXED_BYTES) as u32;
        message.0[FIXED_BYTES - 4..FIXED_BYTES].copy_from_slice(&fields.to_le_bytes());
        message.align(8);
        out.extend(message.0);
        out.extend(body);
    }
}

impl Answer<'_> {
    /// Its type and its bytes.
    fn body(self) -> (&'static str, Vec<u8>) {
        let mut body = Writer(Vec::new());
        let signature = match self {
            Self::Nothing => "",
            Self::Text(text) | Self::Failed(text) | Self::Unknown(text) => {
                body.text(text);
                "s"
            }
            Self::Truth => {
                body.number(1);
                "b"
            }
            Self::Number(number) => {
                body.number(number);
                "u"
            }
            Self::Texts(texts) => {
                body.array(4, |body| texts.iter().for_each(|text| body.text(text)));
                "as"
            }
            Self::Property(name, value) => {
                body.array(8, |body| {
                    body.text(name);
                    body.signature("s");
                    body.text(value);
                });
                "a{sv}"
            }
            Self::Bytes(bytes) => {
                body.number(bytes.len() as u32);
                body.0.extend_from_slice(bytes);
                "ay"
            }
        };
        (signature, body.0)
    }
}

/// How many bytes the message has that begins here, once that is known.
fn length(bytes: &[u8]) -> Result<Option<usize>, DbusError> {
    let Some(fixed) = bytes.get(..FIXED_BYTES) else {
        return Ok(None);
    };
    let mut fixed = Reader::new(fixed)?;
    let expected = "the end of a message of at most a record's size";
    fixed.at = 4;
    let body = fixed.number()? as usize;
    fixed.at = 12;
    let fields = fixed.number()? as usize;
    if body > MESSAGE_BYTES_MAX || fields > MESSAGE_BYTES_MAX {
        return Err(DbusError::Message { at: 4, expected });
    }
    let length = (FIXED_BYTES + fields).next_multiple_of(8) + body;
    if length > MESSAGE_BYTES_MAX {
        return Err(DbusError::Message { at: 4, expected });
    }
    Ok(Some(length))
}

/// A whole message; what is no call is of no interest.
fn call(message: &[u8]) -> Result<Option<Call>, DbusError> {
    let mut reader = Reader::new(message)?;
    if message.get(1) != Some(&CALL) {
        return Ok(None);
    }
    let answered = message.get(2).is_some_and(|flags| flags & NO_REPLY == 0);
    reader.at = 8;
    let serial = reader.number()?;
    let end = FIXED_BYTES + reader.number()? as usize;
    let (mut interface, mut member, mut signature) = ("", "", "");
    while reader.at < end {
        reader.align(8)?;
        let code = reader.byte()?;
        let value = match reader.signature()? {
            "s" | "o" => reader.text()?,
            "g" => reader.signature()?,
            "u" => {
                reader.number()?;
                ""
            }
            _ => return reader.expected("a field of a header"),
        };
        match code {
            INTERFACE => interface = value,
            MEMBER => member = value,
            SIGNATURE => signature = value,
            _ => {}
        }
    }
    reader.align(8)?;
    let body = Body { signature, reader };
    let method = Method::of(interface, member, body)?;
    Ok(Some(Call {
        serial,
        answered,
        method,
    }))
}

/// What a call carries.
struct Body<'a> {
    signature: &'a str,
    reader: Reader<'a>,
}

impl Body<'_> {
    fn bytes(mut self) -> Result<Vec<u8>, DbusError> {
        if self.signature != "ay" {
            return self.reader.expected("an array of bytes");
        }
        let length = self.reader.number()? as usize;
        Ok(self.reader.take(length)?.to_vec())
    }
}

/// Reads a message from its begin; places in it are aligned from there.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, DbusError> {
        let big_endian = match bytes.first() {
            Some(b'l') => false,
            Some(b'B') => true,
            _ => {
                let expected = "l or B";
                return Err(DbusError::Message { at: 0, expected });
            }
        };
        let at = 0;
        Ok(Self {
            bytes,
            at,
            big_endian,
        })
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, DbusError> {
        let at = self.at;
        Err(DbusError::Message { at, expected })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DbusError> {
        let end = self.at.checked_add(length);
        let Some(taken) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            return self.expected("more bytes");
        };
        self.at += length;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<(), DbusError> {
        let padding = self.at.next_multiple_of(to) - self.at;
        self.take(padding).map(drop)
    }

    fn byte(&mut self) -> Result<u8, DbusError> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn number(&mut self) -> Result<u32, DbusError> {
        self.align(4)?;
        let mut four = [0; 4];
        four.copy_from_slice(self.take(4)?);
        Ok(match self.big_endian {
            false => u32::from_le_bytes(four),
            true => u32::from_be_bytes(four),
        })
    }

    fn text(&mut self) -> Result<&'a str, DbusError> {
        let length = self.number()? as usize;
        self.terminated(length)
    }

    fn signature(&mut self) -> Result<&'a str, DbusError> {
        let length = self.byte()?;
        self.terminated(usize::from(length))
    }

    fn terminated(&mut self, length: usize) -> Result<&'a str, DbusError> {
        let text = std::str::from_utf8(self.take(length)?);
        let ended = self.byte()? == 0;
        text.ok()
            .filter(|_| ended)
            .map_or_else(|| self.expected("text with a null at its end"), Ok)
    }
}

/// Writes in little-endian order; places are aligned from its begin.
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn field(&mut self, code: u8, signature: &str, value: impl FnOnce(&mut Self)) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        value(self);
    }

    /// The padding before the first item does not count.
    fn array(&mut self, alignment: usize, items: impl FnOnce(&mut Self)) {
        self.number(0);
        let length_at = self.0.len() - 4;
        self.align(alignment);
        let begin = self.0.len();
        items(self);
        let length = (self.0.len() - begin) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(bytes: &[u8]) -> (Vec<Said>, Option<DbusError>) {
        let (mut talk, mut all) = (Talk::default(), Vec::new());
        talk.push(bytes);
        loop {
            match talk.next() {
                Ok(Some(one)) => all.push(one),
                Ok(None) => return (all, None),
                Err(error) => return (all, Some(error)),
            }
        }
    }

    /// A call as GLib's client makes it.
    fn message((interface, member): (&str, &str), body: Option<&[u8]>) -> Vec<u8> {
        let body = body.map(|bytes| Answer::Bytes(bytes).body().1);
        let mut message = Writer(vec![b'l', CALL, 0, PROTOCOL]);
        message.number(body.as_ref().map_or(0, Vec::len) as u32);
        message.number(7);
        message.number(0);
        message.field(1, "o", |field| field.text("/org/qemu/VMState1"));
        message.field(MEMBER, "s", |field| field.text(member));
        message.field(INTERFACE, "s", |field| field.text(interface));
        if body.is_some() {
            message.field(SIGNATURE, "g", |field| field.signature("ay"));
        }
        let fields = (message.0.len() - FIXED_BYTES) as u32;
        message.0[12..16].copy_from_slice(&fields.to_le_bytes());
        message.align(8);
        message.0.extend(body.unwrap_or_default());
        message.0
    }

    const HELLO: &[u8] = b"\0AUTH EXTERNAL 30\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n";
    const VMSTATE: &str = "org.qemu.VMState1";

    fn conversation() -> Vec<u8> {
        let load = message((VMSTATE, "Load"), Some(b"a record"));
        [HELLO, &message((VMSTATE, "Save"), None), &load].concat()
    }

    #[test]
    fn what_qemu_says_is_understood_however_it_is_cut() {
        let whole = said(&conversation());
        assert_eq!(whole.1, None);
        let call = |method| {
            Said::Call(Call {
                serial: 7,
                answered: true,
                method,
            })
        };
        let expected = [
            Said::Greeting("OK 6c6963746f7200000000000000000000\r\n"),
            Said::Greeting("ERROR\r\n"),
            Said::Begun,
            call(Method::Save),
            call(Method::Load(b"a record".to_vec())),
        ];
        assert_eq!(whole.0, expected);
        let (mut talk, mut all) = (Talk::default(), Vec::new());
        for byte in conversation() {
            talk.push(&[byte]);
            all.extend(talk.next().expect("understood"));
        }
        assert_eq!(all, expected);
    }

    #[test]
    fn other_bytes_are_refused_with_their_place_or_waited_for() {
        let at = |at, expected| Some(DbusError::Message { at, expected });
        let handshake = |expected| Some(DbusError::Handshake { expected });
        let mut long = message((VMSTATE, "Save"), None);
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let too_long = "the end of a message of at most a record's size";
        let mut untyped = message((VMSTATE, "Load"), None);
        let wanted = "an array of bytes";
        let place = untyped.len();
        for (bytes, error) in [
            (b"AUTH".to_vec(), handshake("a null")),
            (
                [&[0; 1][..], &[b'A'; LINE_BYTES_MAX + 1]].concat(),
                handshake("lines of at most 1,024 bytes"),
            ),
            ([HELLO, &[0; 16]].concat(), at(0, "l or B")),
            ([HELLO, &long].concat(), at(4, too_long)),
            (
                [HELLO, &std::mem::take(&mut untyped)].concat(),
                at(place, wanted),
            ),
        ] {
            assert_eq!(said(&bytes).1, error);
        }
    }

    #[test]
    fn no_bytes_at_all_bring_it_down() {
        let whole = conversation();
        for at in 0..whole.len() {
            for changed in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = changed;
                said(&bytes);
                said(&bytes[at..]);
                said(&[HELLO, &bytes[at..]].concat());
            }
        }
    }

    #[test]
    fn an_answer_has_the_bytes_of_the_specification() {
        let call = Call {
            serial: 9,
            answered: true,
            method: Method::Properties,
        };
        let mut out = Vec::new();
        Talk::default().answer(&call, Answer::Property("Id", "lictor-a"), &mut out);
        let expected = [
            &b"l\x02\x01\x01\x21\0\0\0\x01\0\0\0\x13\0\0\0"[..],
            b"\x05\x01u\0\x09\0\0\0\x08\x01g\0\x05a{sv}\0\0\0\0\0\0",
            b"\x19\0\0\0\0\0\0\0\x02\0\0\0Id\0\x01s\0\0\0",
            b"\x08\0\0\0lictor-a\0",
        ];
        assert_eq!(out, expected.concat());
        let silent = Call {
            answered: false,
            ..call
        };
        out.clear();
        Talk::default().answer(&silent, Answer::Nothing, &mut out);
        assert!(out.is_empty());
    }
}
