//! WebSocket frames of a server (RFC 6455 §5): what came becomes payload where it stands, so that nothing is gathered. [pure]
//!
//! A frame may announce any length: MQTT's packets have a limit of their own, and frames say nothing about packets.

/// Most bytes of a control frame's payload (§5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// Two bytes, a length of eight, and the mask.
const HEADER_BYTES_MAX: usize = 14;

/// The same without a mask.
const OUT_HEADER_BYTES_MAX: usize = 10;

mod opcode {
    pub const CONTINUATION: u8 = 0x0;
    pub const TEXT: u8 = 0x1;
    pub const BINARY: u8 = 0x2;
    pub const CLOSE: u8 = 0x8;
    pub const PING: u8 = 0x9;
    pub const PONG: u8 = 0xA;
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// §7.4.1
mod code {
    pub const NORMAL: u16 = 1000;
    pub const PROTOCOL_ERROR: u16 = 1002;
    pub const UNSUPPORTED: u16 = 1003;
}

/// What the peer may not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// MQTT is binary (MQTT-6.0.0-1).
    #[error("a text frame: MQTT is binary (MQTT 5.0 section 6)")]
    Text,
    /// RFC 6455.
    #[error("{0} (RFC 6455 section 5)")]
    Frame(&'static str),
}

/// Bytes that go out before anything else: the header of a frame, or a control frame.
#[derive(Clone, Copy, Debug)]
pub struct Small {
    bytes: [u8; OUT_HEADER_BYTES_MAX + CONTROL_BYTES_MAX],
    from: u8,
    to: u8,
}

impl Small {
    /// Nothing.
    pub const EMPTY: Self = Self { bytes: [0; OUT_HEADER_BYTES_MAX + CONTROL_BYTES_MAX], from: 0, to: 0 };

    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.bytes.get_mut(usize::from(self.to)) {
                *place = *byte;
                self.to += 1;
            }
        }
    }

    /// The header of a binary frame with so much payload.
    pub fn header(payload: usize) -> Self {
        let mut small = Self::EMPTY;
        small.push(&[FIN | opcode::BINARY]);
        match (u8::try_from(payload), u16::try_from(payload)) {
            (Ok(len @ 0..=125), _) => small.push(&[len]),
            (_, Ok(len)) => {
                small.push(&[126]);
                small.push(&len.to_be_bytes());
            }
            _ => {
                small.push(&[127]);
                small.push(&(payload as u64).to_be_bytes());
            }
        }
        small
    }

    fn control(opcode: u8, payload: &[u8]) -> Self {
        let mut small = Self::EMPTY;
        let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
        small.push(&[FIN | opcode, payload.len() as u8]);
        small.push(payload);
        small
    }

    fn closing(code: u16) -> Self {
        Self::control(opcode::CLOSE, &code.to_be_bytes())
    }

    /// We close.
    pub fn goodbye() -> Self {
        Self::closing(code::NORMAL)
    }

    /// What the peer is told.
    pub fn refusal(fault: Fault) -> Self {
        Self::closing(match fault {
            Fault::Text => code::UNSUPPORTED,
            Fault::Frame(_) => code::PROTOCOL_ERROR,
        })
    }

    /// What is left of it.
    pub fn left(&self) -> &[u8] {
        &self.bytes[usize::from(self.from)..usize::from(self.to)]
    }

    /// `n` bytes are written.
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.left().len());
        self.from += n as u8; // fewer than 136
    }
}

/// What was in some bytes.
#[derive(Debug, Default)]
pub struct Fed {
    /// Bytes of payload, which stand at the front now.
    pub payload: usize,
    /// What is to be answered: to the last ping (§5.5.3), or to the close.
    pub answer: Option<Small>,
    /// The peer has closed: nothing more comes.
    pub closed: bool,
}

/// Where in a frame we are.
#[derive(Clone, Copy, Debug)]
enum State {
    /// So many bytes of its header are here.
    Header(u8),
    Data {
        left: u64,
        mask: [u8; 4],
    },
    Control {
        opcode: u8,
        have: u8,
        len: u8,
        mask: [u8; 4],
    },
    Closed,
}

/// Takes frames apart.
#[derive(Debug)]
pub struct Reader {
    state: State,
    /// The header, or the payload of a control frame.
    gathered: [u8; CONTROL_BYTES_MAX],
    /// A message of several frames has begun.
    goes_on: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self { state: State::Header(0), gathered: [0; CONTROL_BYTES_MAX], goes_on: false }
    }
}

impl Reader {
    /// Takes the next bytes that came, and leaves the payload that is in them at their front.
    pub fn feed(&mut self, bytes: &mut [u8]) -> Result<Fed, Fault> {
        let (mut fed, mut at) = (Fed::default(), 0);
        while at < bytes.len() {
            match self.state {
                State::Header(have) => {
                    self.gathered[usize::from(have)] = bytes[at];
                    at += 1;
                    self.state = State::Header(have + 1);
                    self.header(usize::from(have) + 1, &mut fed)?;
                }
                State::Data { left, mask } => {
                    let n = (bytes.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                    bytes.copy_within(at..at + n, fed.payload);
                    unmask(&mut bytes[fed.payload..fed.payload + n], mask);
                    fed.payload += n;
                    at += n;
                    let left = left - n as u64;
                    let mut mask = mask;
                    mask.rotate_left(n % 4);
                    self.state = if left == 0 { State::Header(0) } else { State::Data { left, mask } };
                }
                State::Control { opcode, have, len, mask } => {
                    self.gathered[usize::from(have)] = bytes[at] ^ mask[usize::from(have % 4)];
                    at += 1;
                    self.state = State::Control { opcode, have: have + 1, len, mask };
                    if have + 1 == len {
                        self.control(opcode, usize::from(len), &mut fed);
                    }
                }
                State::Closed => break,
            }
        }
        fed.closed = matches!(self.state, State::Closed);
        Ok(fed)
    }

    /// Looks at the header as soon as all of it is here.
    fn header(&mut self, have: usize, fed: &mut Fed) -> Result<(), Fault> {
        if have < 2 {
            return Ok(());
        }
        let [first, second] = [self.gathered[0], self.gathered[1]];
        let short = second & !MASKED;
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if have == 2 {
            self.check(first, second)?;
        }
        if have < 2 + extended + 4 {
            return Ok(());
        }
        debug_assert!(have <= HEADER_BYTES_MAX);
        let len = self.gathered[2..2 + extended].iter().fold(0, |len: u64, byte| len << 8 | u64::from(*byte));
        let len = if extended == 0 { u64::from(short) } else { len };
        if extended == 2 && len < 126 || extended == 8 && (len <= u64::from(u16::MAX) || len > i64::MAX as u64) {
            return Err(Fault::Frame("a length that is not in its shortest form"));
        }
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.gathered[2 + extended..2 + extended + 4]);
        let opcode = first & 0x0F;
        if opcode < opcode::CLOSE {
            self.goes_on = first & FIN == 0;
            self.state = if len == 0 { State::Header(0) } else { State::Data { left: len, mask } };
        } else {
            self.state = State::Control { opcode, have: 0, len: short, mask };
            if len == 0 {
                self.control(opcode, 0, fed);
            }
        }
        Ok(())
    }

    /// The first two bytes (§5.2, §5.4, §5.5).
    fn check(&self, first: u8, second: u8) -> Result<(), Fault> {
        let fault = |what| Err(Fault::Frame(what));
        if first & RESERVED != 0 {
            return fault("a reserved bit, and no extension");
        }
        if second & MASKED == 0 {
            return fault("a frame without mask");
        }
        match first & 0x0F {
            opcode::CONTINUATION if !self.goes_on => fault("a continuation of nothing"),
            opcode::TEXT | opcode::BINARY if self.goes_on => fault("a new message within another one"),
            opcode::TEXT => Err(Fault::Text),
            opcode::CONTINUATION | opcode::BINARY => Ok(()),
            opcode::CLOSE | opcode::PING | opcode::PONG => {
                match first & FIN == 0 || usize::from(second & !MASKED) > CONTROL_BYTES_MAX {
                    true => fault("a control frame in pieces or of more than 125 bytes"),
                    false => Ok(()),
                }
            }
            _ => fault("a reserved opcode"),
        }
    }

    /// A control frame is complete.
    fn control(&mut self, opcode: u8, len: usize, fed: &mut Fed) {
        let payload = &self.gathered[..len];
        self.state = State::Header(0);
        match opcode {
            opcode::PING => fed.answer = Some(Small::control(opcode::PONG, payload)),
            opcode::CLOSE => {
                // §5.5.1: typically echoing the status code. Less than a code is none.
                fed.answer = Some(Small::control(opcode::CLOSE, if len >= 2 { &payload[..2] } else { &[] }));
                self.state = State::Closed;
            }
            _ => {}
        }
    }
}

/// §5.3
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let long = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(eight) ^ long).to_ne_bytes());
    }
    chunks.into_remainder().iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client sends it.
    fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            len @ 0..=125 => out.push(0x80 | len as u8),
            len @ 126..=65_535 => {
                out.push(0x80 | 126);
                out.extend((len as u16).to_be_bytes());
            }
            len => {
                out.push(0x80 | 127);
                out.extend((len as u64).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        out
    }

    #[derive(Clone, Debug)]
    enum Piece {
        /// One message in so many frames.
        Message(Vec<Vec<u8>>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
    }

    fn piece() -> impl Strategy<Value = Piece> {
        let bytes = |max: usize| prop::collection::vec(any::<u8>(), 0..max);
        prop_oneof![
            4 => prop::collection::vec(bytes(300), 1..4).prop_map(Piece::Message),
            1 => (65_530..65_540_usize).prop_map(|n| Piece::Message(vec![vec![7; n]])),
            2 => bytes(126).prop_map(Piece::Ping),
            1 => bytes(126).prop_map(Piece::Pong),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn the_payload_comes_out_however_the_bytes_are_cut(
            pieces in prop::collection::vec(piece(), 0..8),
            mask in any::<[u8; 4]>(),
            cuts in prop::collection::vec(1..400_usize, 1..50),
        ) {
            let (mut sent, mut wanted, mut pings) = (Vec::new(), Vec::<u8>::new(), Vec::new());
            for piece in &pieces {
                match piece {
                    Piece::Message(frames) => for (at, payload) in frames.iter().enumerate() {
                        let fin = if at + 1 == frames.len() { FIN } else { 0 };
                        let opcode = if at == 0 { opcode::BINARY } else { opcode::CONTINUATION };
                        sent.extend(frame(fin | opcode, payload, mask));
                        wanted.extend(payload);
                    },
                    Piece::Ping(payload) => {
                        sent.extend(frame(FIN | opcode::PING, payload, mask));
                        pings.push(payload.clone());
                    }
                    Piece::Pong(payload) => sent.extend(frame(FIN | opcode::PONG, payload, mask)),
                }
            }
            let (mut reader, mut got, mut answers, mut cuts) = (Reader::default(), Vec::<u8>::new(), Vec::new(), cuts.iter().cycle());
            let mut rest = &sent[..];
            while !rest.is_empty() {
                let n = *cuts.next().unwrap() * if rest.len() > 10_000 { 50 } else { 1 };
                let (now, later) = rest.split_at(n.min(rest.len()));
                let mut now = now.to_vec();
                let fed = reader.feed(&mut now).unwrap();
                got.extend(&now[..fed.payload]);
                answers.extend(fed.answer.map(|answer| answer.left()[2..].to_vec()));
                prop_assert!(!fed.closed);
                rest = later;
            }
            prop_assert!(got == wanted);
            // Of several pings at once only the last is answered.
            let mut asked = pings.iter();
            prop_assert!(answers.iter().all(|answer| asked.any(|ping| ping == answer)));
            prop_assert_eq!(answers.last(), pings.last());
        }

        #[test]
        fn whatever_comes_it_ends_in_order(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let len = bytes.len();
            if let Ok(fed) = Reader::default().feed(&mut bytes) {
                prop_assert!(fed.payload <= len);
            }
        }
    }

    #[test]
    fn what_the_standard_forbids_is_refused() {
        let fed = |bytes: &[&[u8]]| {
            let mut reader = Reader::default();
            bytes.iter().map(|bytes| reader.feed(&mut bytes.to_vec()).map(|fed| fed.payload)).last().unwrap()
        };
        let begun = frame(opcode::BINARY, b"x", [1; 4]);
        for (what, bytes) in [
            ("reserved bit", &[0xC2, 0x80][..]),
            ("no mask", &[0x82, 0x01]),
            ("continuation", &[0x80, 0x80]),
            ("reserved opcode", &[0x83, 0x80]),
            ("control in pieces", &[0x09, 0x80]),
            ("long control", &[0x89, 0x80 | 126]),
            ("126 for 125", &[0x82, 0x80 | 126, 0, 125, 0, 0, 0, 0]),
            ("127 for 65535", &[0x82, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0]),
            ("63 bits", &[0x82, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert!(matches!(fed(&[bytes]), Err(Fault::Frame(_))), "{what}");
        }
        assert!(matches!(fed(&[&begun, &frame(FIN | opcode::BINARY, b"y", [1; 4])]), Err(Fault::Frame(_))));
        assert_eq!(fed(&[&frame(FIN | opcode::TEXT, b"y", [1; 4])]), Err(Fault::Text));
        assert_eq!(Small::refusal(Fault::Text).left(), [0x88, 2, 0x03, 0xEB]);
    }

    #[test]
    fn a_close_is_echoed_and_nothing_comes_after_it() {
        for (payload, answer) in [(&[0x03, 0xE9, b'o', b'k'][..], &[0x88, 2, 0x03, 0xE9][..]), (&[], &[0x88, 0])] {
            let mut bytes = frame(FIN | opcode::BINARY, b"last", [9; 4]);
            bytes.extend(frame(FIN | opcode::CLOSE, payload, [8, 7, 6, 5]));
            bytes.extend(frame(FIN | opcode::BINARY, b"more", [9; 4]));
            let mut reader = Reader::default();
            let fed = reader.feed(&mut bytes).unwrap();
            assert_eq!((&bytes[..fed.payload], fed.closed), (&b"last"[..], true));
            assert_eq!(fed.answer.unwrap().left(), answer);
            let fed = reader.feed(&mut bytes).unwrap();
            assert_eq!((fed.payload, fed.closed), (0, true));
        }
    }

    #[test]
    fn headers_of_each_length() {
        let header = |n| Small::header(n).left().to_vec();
        assert_eq!(header(125), [0x82, 125]);
        assert_eq!(header(126), [0x82, 126, 0, 126]);
        assert_eq!(header(65_535), [0x82, 126, 0xFF, 0xFF]);
        assert_eq!(header(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
