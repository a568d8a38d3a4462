//! A client's bytes become packets; what the standards forbid is refused. [pure]
//!
//! Property identifiers and reason codes are those of mqtt-protocol-core; the parsing is not. Tried with its 0.7.9, line by line in
//! `tests/witness.rs`: of 125 forbidden packets its parser takes 49. It refuses some that 5.0 allows (a password without a user
//! name), which no check around it can undo, and cannot tell reason 0x81 from 0x82 for properties. So nearly everything would have
//! to be checked on the raw bytes before, and converted after: with just the checks that a plain PUBLISH needs, that takes 1.6 times
//! (3.1.1) and 1.8 times (5.0) as long as all of it done here, although its `parse` alone is the faster one
//! (`cargo bench --bench mqtt_packet`). It serves as the second opinion in the tests: what is accepted here, it accepts as well.

mod connect;
mod kind;
mod publish;
mod subscribe;

use std::borrow::Cow;

use bytes::{Buf, BytesMut};
use mqtt_protocol_core::mqtt::packet::PropertyId;
use mqtt_protocol_core::mqtt::result_code::{
    AuthReasonCode, DisconnectReasonCode, PubackReasonCode, PubcompReasonCode, PubrecReasonCode, PubrelReasonCode,
};

use super::error::{Answer, Fault, PacketError, fault, forbidden, malformed};
use super::properties::{self, Block, DOES_NOT_BELONG};
use super::reader::{ENDLESS, OVERLONG, Reader};
use super::{Ack, Disconnect, Packet, Reason, Version};

pub use subscribe::FILTERS_MAX;

use kind::Kind;

/// The packets of one connection, from its first byte on.
#[derive(Clone, Debug)]
pub struct Decoder {
    version: Option<Version>,
    max_packet: u32,
}

/// What the first two to five bytes say (MQTT 5.0 §2.1).
#[derive(Clone, Copy)]
struct Header {
    kind: Kind,
    flags: u8,
    length: usize,
    body: usize,
    /// The remaining length takes more bytes than it needs.
    overlong: bool,
}

impl Decoder {
    /// `max_packet`: bytes of the largest packet that is taken, its fixed header included (MQTT 5.0 §3.2.2.3.6).
    pub fn new(max_packet: u32) -> Self {
        Self { version: None, max_packet }
    }

    /// Takes larger packets, or smaller ones, from now on.
    pub fn set_max_packet(&mut self, max_packet: u32) {
        self.max_packet = max_packet;
    }

    /// What CONNECT said; `None` before it.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes the next packet off the buffer. `None`: it is not there as a whole; read more and call again.
    ///
    /// Nothing is taken off with an error, and asking again gives it again: the connection must end. A packet that is too large, or that
    /// a client may not send, is refused from its first bytes, so that a buffer never has to hold more than `max_packet`.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Packet>, PacketError> {
        let Some(header) = self.header(buffer)? else { return Ok(None) };
        let Some(body) = buffer.get(header.length..header.length + header.body) else { return Ok(None) };
        let packet = self.packet(header, &mut Reader::new(body))?;
        buffer.advance(header.length + header.body);
        Ok(Some(packet))
    }

    fn header(&self, bytes: &[u8]) -> Result<Option<Header>, PacketError> {
        let Some((&first, lengths)) = bytes.split_first() else { return Ok(None) };
        let kind = Kind::of(first >> 4);
        let flags = first & 0x0F;
        self.admit(kind, flags).map_err(|fault| self.refuse(kind, fault))?;
        let mut body = 0;
        for (i, &byte) in lengths.iter().take(4).enumerate() {
            body |= usize::from(byte & 0x7F) << (7 * i);
            if byte & 0x80 == 0 {
                let header = Header { kind, flags, length: i + 2, body, overlong: byte == 0 && i > 0 };
                return self.fits(header).map(Some);
            }
        }
        if lengths.len() < 4 { Ok(None) } else { Err(self.refuse(kind, ENDLESS)) }
    }

    fn fits(&self, header: Header) -> Result<Header, PacketError> {
        let size = header.length + header.body;
        if u32::try_from(size).is_ok_and(|size| size <= self.max_packet) {
            return Ok(header);
        }
        let what = format!("{size} bytes, and at most {} are taken (MQTT 5.0 §3.2.2.3.6)", self.max_packet);
        Err(PacketError { what: what.into(), ..self.refuse(header.kind, fault(Reason::PACKET_TOO_LARGE, "")) })
    }

    /// Whether this packet may come now, as far as its first byte tells (MQTT 5.0 §2.1.2, §2.1.3).
    fn admit(&self, kind: Kind, flags: u8) -> Result<(), Fault> {
        const FLAGS: Fault = malformed("wrong flags in the fixed header (MQTT 5.0 §2.1.3, 3.1.1 §2.2.2)");
        let wanted = match kind {
            Kind::Publish => return self.connected().and_then(|()| publish::check_flags(flags)),
            Kind::Reserved => return Err(malformed("packet type 0 (MQTT 5.0 §2.1.2, 3.1.1 §2.2.1)")),
            Kind::Auth if self.version == Some(Version::V311) => {
                return Err(malformed("packet type 15 (3.1.1 §2.2.1)"));
            }
            Kind::Connack | Kind::Suback | Kind::Unsuback | Kind::Pingresp => {
                return Err(forbidden("only a server sends this (MQTT 5.0 §2.1.2, 3.1.1 §2.2.1)"));
            }
            Kind::Pubrel | Kind::Subscribe | Kind::Unsubscribe => 0x02,
            _ => 0,
        };
        match (kind, self.version) {
            (Kind::Connect, None) => {}
            (Kind::Connect, Some(_)) => return Err(forbidden("a second CONNECT (MQTT 5.0 §3.1, 3.1.1 §3.1)")),
            _ => self.connected()?,
        }
        if flags == wanted { Ok(()) } else { Err(FLAGS) }
    }

    fn connected(&self) -> Result<(), Fault> {
        match self.version {
            Some(_) => Ok(()),
            None => Err(forbidden("the first packet must be CONNECT (MQTT 5.0 §3.1, 3.1.1 §3.1)")),
        }
    }

    fn packet(&mut self, header: Header, body: &mut Reader<'_>) -> Result<Packet, PacketError> {
        let Some(version) = self.version else {
            let connect = connect::connect(body).and_then(|connect| {
                let overlong = header.overlong && connect.version == Version::V5;
                if overlong { Err((OVERLONG, Some(Version::V5))) } else { Ok(connect) }
            });
            let connect = connect.map_err(|(fault, version)| refuse_connect(fault, version))?;
            self.version = Some(connect.version);
            return Ok(Packet::Connect(Box::new(connect)));
        };
        if header.overlong && version == Version::V5 {
            return Err(self.refuse(header.kind, OVERLONG));
        }
        let packet = match header.kind {
            Kind::Publish => publish::publish(header.flags, body, version).map(|p| Packet::Publish(Box::new(p))),
            Kind::Puback => ack::<PubackReasonCode>(body, version).map(Packet::Puback),
            Kind::Pubrec => ack::<PubrecReasonCode>(body, version).map(Packet::Pubrec),
            Kind::Pubrel => ack::<PubrelReasonCode>(body, version).map(Packet::Pubrel),
            Kind::Pubcomp => ack::<PubcompReasonCode>(body, version).map(Packet::Pubcomp),
            Kind::Subscribe => subscribe::subscribe(body, version).map(|s| Packet::Subscribe(Box::new(s))),
            Kind::Unsubscribe => subscribe::unsubscribe(body, version).map(|u| Packet::Unsubscribe(Box::new(u))),
            Kind::Pingreq => body.end().map(|()| Packet::Pingreq),
            Kind::Disconnect => disconnect(body, version).map(|d| Packet::Disconnect(Box::new(d))),
            Kind::Auth => auth(body).map(Packet::Auth),
            // Refused by `admit` already.
            Kind::Reserved | Kind::Connect | Kind::Connack | Kind::Suback | Kind::Unsuback | Kind::Pingresp => {
                Err(forbidden("not a client's packet (MQTT 5.0 §2.1.2)"))
            }
        };
        packet.map_err(|fault| self.refuse(header.kind, fault))
    }

    fn refuse(&self, kind: Kind, fault: Fault) -> PacketError {
        let answer = if self.version == Some(Version::V5) { Answer::Disconnect } else { Answer::Silence };
        PacketError { packet: kind.name(), reason: fault.reason, what: Cow::Borrowed(fault.what), answer }
    }
}

/// 3.1.1 answers a CONNECT only where it has a return code for it, and closes without a word otherwise (MQTT-3.1.4-1).
fn refuse_connect(fault: Fault, version: Option<Version>) -> PacketError {
    let answer = match (version, fault.reason) {
        (Some(Version::V5), _) => Answer::Connack(Version::V5),
        (Some(Version::V311), Reason::UNSUPPORTED_PROTOCOL_VERSION | Reason::CLIENT_ID_NOT_VALID) => {
            Answer::Connack(Version::V311)
        }
        _ => Answer::Silence,
    };
    PacketError { packet: Kind::Connect.name(), reason: fault.reason, what: Cow::Borrowed(fault.what), answer }
}

const REASON: Fault = forbidden("a reason code that this packet does not have (MQTT 5.0 §2.4)");

/// PUBACK, PUBREC, PUBREL, PUBCOMP (MQTT 5.0 §3.4 to §3.7): reason and properties may be left out.
fn ack<Code: TryFrom<u8>>(body: &mut Reader<'_>, version: Version) -> Result<Ack, Fault> {
    let mut ack = Ack { packet_id: body.packet_id()?, reason: Reason::SUCCESS, reason_string: None };
    if version == Version::V5 && !body.is_empty() {
        ack.reason = reason::<Code>(body)?;
        if !body.is_empty() {
            ack.reason_string = properties::reason_string(body)?.map(str::to_owned);
        }
    }
    body.end()?;
    Ok(ack)
}

fn reason<Code: TryFrom<u8>>(body: &mut Reader<'_>) -> Result<Reason, Fault> {
    let code = body.u8()?;
    if Code::try_from(code).is_ok() { Ok(Reason(code)) } else { Err(REASON) }
}

/// MQTT 5.0 §3.14, 3.1.1 §3.14.
fn disconnect(body: &mut Reader<'_>, version: Version) -> Result<Disconnect, Fault> {
    let mut disconnect = Disconnect { reason: Reason::SUCCESS, session_expiry_s: None, reason_string: None };
    if version == Version::V5 && !body.is_empty() {
        disconnect.reason = reason::<DisconnectReasonCode>(body)?;
        if !clients_reason(disconnect.reason) {
            return Err(forbidden("a reason code that only a server sends (MQTT 5.0 §3.14.2.1)"));
        }
        if !body.is_empty() {
            let mut block = Block::from(body)?;
            while let Some(id) = block.next()? {
                match id {
                    PropertyId::SessionExpiryInterval => disconnect.session_expiry_s = Some(block.reader().u32()?),
                    PropertyId::ReasonString => disconnect.reason_string = Some(block.reader().string()?.to_owned()),
                    PropertyId::UserProperty => block.skip_user_property()?,
                    _ => return Err(DOES_NOT_BELONG),
                }
            }
        }
    }
    body.end()?;
    Ok(disconnect)
}

/// The rows of MQTT 5.0 §3.14.2.1, table 3-10, that a client may send.
fn clients_reason(reason: Reason) -> bool {
    matches!(reason.0, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99)
}

/// MQTT 5.0 §3.15. A method must be named, except with success, which a client does not send.
fn auth(body: &mut Reader<'_>) -> Result<Reason, Fault> {
    const NO_METHOD: Fault = forbidden("AUTH without an authentication method (MQTT 5.0 §3.15.2.2.2)");
    if body.is_empty() {
        return Err(forbidden("AUTH with success, which only a server sends (MQTT 5.0 §3.15.2.1)"));
    }
    let reason = reason::<AuthReasonCode>(body)?;
    if reason == Reason::SUCCESS {
        return Err(forbidden("AUTH with success, which only a server sends (MQTT 5.0 §3.15.2.1)"));
    }
    if body.is_empty() {
        return Err(NO_METHOD);
    }
    let mut block = Block::from(body)?;
    let mut method = false;
    while let Some(id) = block.next()? {
        match id {
            PropertyId::AuthenticationMethod => {
                block.reader().string()?;
                method = true;
            }
            PropertyId::AuthenticationData => {
                block.reader().binary()?;
            }
            PropertyId::ReasonString => {
                block.reader().string()?;
            }
            PropertyId::UserProperty => block.skip_user_property()?,
            _ => return Err(DOES_NOT_BELONG),
        }
    }
    body.end()?;
    if method { Ok(reason) } else { Err(NO_METHOD) }
}
