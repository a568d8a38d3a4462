//! Bytes to records; whatever the bytes are. What is allocated is bounded by their number. [pure]

use std::sync::Arc;

use bytes::Bytes;

use super::{DecodeError, VERSION, kind};
use crate::ingest::mqtt::broker::record::{Intent, Message, Record, SessionState, Waiting};
use crate::ingest::mqtt::packet::{FilterOptions, PacketId, Properties, QoS, RetainHandling};

type Result<T> = std::result::Result<T, DecodeError>;

/// Reads one record, which must be all of `bytes`. Payloads are copied out of them.
pub fn decode(bytes: &[u8]) -> Result<Record> {
    let mut r = Read(bytes, 0);
    r.1 = r.byte("version")?;
    if !(1..=VERSION).contains(&r.1) {
        return Err(DecodeError::Version(r.1));
    }
    let record = r.record()?;
    match r.0.len() {
        0 => Ok(record),
        more => Err(DecodeError::Long(more)),
    }
}

/// What is left, and the version that it is of.
struct Read<'a>(&'a [u8], u8);

impl Read<'_> {
    fn record(&mut self) -> Result<Record> {
        Ok(match self.byte("kind")? {
            kind::SESSION => Record::Session(Box::new(self.state()?)),
            kind::SESSION_ENDED => Record::SessionEnded { session: self.id()? },
            kind::SESSION_EXPIRY => {
                let session = self.id()?;
                let [has_expiry] = self.flags("flags of the expiry")?;
                let expires_at = self.optional(has_expiry, Self::number)?;
                Record::SessionExpiry { session, expires_at, expiry_s: self.number32()? }
            }
            kind::SUBSCRIBED => {
                let session = self.id()?;
                let (options, subscription_id) = self.subscription()?;
                Record::Subscribed { session, options, subscription_id }
            }
            kind::UNSUBSCRIBED => Record::Unsubscribed { session: self.id()?, filter: self.text()?.to_owned() },
            kind::INTENT => {
                let (session, packet_id) = (self.id()?, self.packet_id()?);
                Record::Intent { session, packet_id, name: self.number()?, digest: self.digest()? }
            }
            kind::RECEIVED => Record::Received { session: self.id()?, packet_id: self.packet_id()? },
            kind::STORED => Record::Stored { session: self.id()?, packet_id: self.packet_id()? },
            kind::RELEASED => Record::Released { session: self.id()?, packet_id: self.packet_id()? },
            kind::QUEUED => {
                let (id, message) = (self.number()?, Arc::new(self.message()?));
                let to = self.list(Self::waiting)?;
                let [is_received, is_moved] = self.flags("flags of the queued message")?;
                let received = self.optional(is_received, |r| Ok((r.id()?, r.packet_id()?)))?;
                let moved = self.optional(is_moved, |r| Ok((r.id()?, r.number()?)))?;
                Record::Queued { id, message, to, received, moved }
            }
            kind::OUTGOING_SENT => Record::OutgoingSent { session: self.id()?, through: self.number()? },
            kind::OUTGOING_RECEIVED => Record::OutgoingReceived { session: self.id()?, id: self.number()? },
            kind::OUTGOING_DONE => Record::OutgoingDone { session: self.id()?, id: self.number()? },
            kind::RETAINED => {
                let topic = self.text()?.into();
                let [is_kept] = self.flags("flags of the retained message")?;
                Record::Retained { topic, message: self.optional(is_kept, Self::message)?.map(Arc::new) }
            }
            kind::WILL => {
                let session = self.id()?;
                let [has_will, has_time] = self.flags("flags of the will")?;
                let will = self.optional(has_will, |r| Ok((Arc::new(r.message()?), r.number32()?)))?;
                Record::Will { session, will, due_at: self.optional(has_time, Self::number)? }
            }
            kind::TIME => Record::Time(self.number()?),
            other => return Err(DecodeError::Kind(other)),
        })
    }

    fn byte(&mut self, what: &'static str) -> Result<u8> {
        let (first, rest) = self.0.split_first().ok_or(DecodeError::Short(what))?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte("number")?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            n |= bits << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(DecodeError::Value("number"))
    }

    fn number32(&mut self) -> Result<u32> {
        u32::try_from(self.number()?).map_err(|_| DecodeError::Value("number"))
    }

    fn id(&mut self) -> Result<u64> {
        let (id, rest) = self.0.split_first_chunk().ok_or(DecodeError::Short("session id"))?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*id))
    }

    /// Not known in version 1.
    fn digest(&mut self) -> Result<u64> {
        if self.1 == 1 { Ok(0) } else { self.id() }
    }

    fn packet_id(&mut self) -> Result<PacketId> {
        let id = u16::try_from(self.number()?).ok().and_then(PacketId::new);
        id.ok_or(DecodeError::Value("packet id"))
    }

    fn bytes(&mut self) -> Result<&[u8]> {
        let len = self.number()?;
        let split = usize::try_from(len).ok().and_then(|len| self.0.split_at_checked(len));
        let (bytes, rest) = split.ok_or(DecodeError::Short("text or bytes"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeError::Value("text (not UTF-8)"))
    }

    /// The lowest bits; the others must not be set.
    fn flags<const N: usize>(&mut self, what: &'static str) -> Result<[bool; N]> {
        let byte = self.byte(what)?;
        if u32::from(byte) >> N != 0 {
            return Err(DecodeError::Value(what));
        }
        Ok(std::array::from_fn(|i| byte >> i & 1 == 1))
    }

    fn optional<T>(&mut self, is_there: bool, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        is_there.then(|| read(self)).transpose()
    }

    /// Grows with what is read, so that a count that lies allocates nothing.
    fn list<T>(&mut self, read: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let count = self.number()?;
        if usize::try_from(count).map_or(true, |n| n > self.0.len()) {
            return Err(DecodeError::Short("list"));
        }
        (0..count).map(|_| read(self)).collect()
    }

    fn qos(byte: u8) -> Result<QoS> {
        match byte {
            0 => Ok(QoS::AtMostOnce),
            1 => Ok(QoS::AtLeastOnce),
            2 => Ok(QoS::ExactlyOnce),
            _ => Err(DecodeError::Value("QoS")),
        }
    }

    fn subscription(&mut self) -> Result<(FilterOptions, Option<u32>)> {
        let filter = self.text()?.to_owned();
        let options = self.byte("subscription options")?;
        let retain_handling = match options >> 2 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err(DecodeError::Value("retain handling")),
        };
        let [no_local, retain_as_published, has_id] = self.flags("flags of the subscription")?;
        let qos = Self::qos(options & 3)?;
        let id = self.optional(has_id, Self::number32)?;
        Ok((FilterOptions { filter, qos, no_local, retain_as_published, retain_handling }, id))
    }

    fn message(&mut self) -> Result<Message> {
        let topic = self.text()?.into();
        let qos = Self::qos(self.byte("QoS")?)?;
        let [retain, has_properties, has_expiry] = self.flags("flags of the message")?;
        let payload = Bytes::copy_from_slice(self.bytes()?);
        let properties = self.optional(has_properties, Self::properties)?.map(Box::new);
        let expires_at = self.optional(has_expiry, Self::number)?;
        Ok(Message { topic, qos, retain, payload, properties, expires_at })
    }

    fn properties(&mut self) -> Result<Properties> {
        let flags = self.flags("flags of the properties")?;
        let [has_format, is_utf8, has_expiry, has_alias, has_response, has_correlation, has_type] = flags;
        if is_utf8 && !has_format {
            return Err(DecodeError::Value("payload format"));
        }
        Ok(Properties {
            payload_is_utf8: has_format.then_some(is_utf8),
            message_expiry_s: self.optional(has_expiry, Self::number32)?,
            topic_alias: self.optional(has_alias, Self::packet_id)?, // the same: 1 to 65,535
            response_topic: self.optional(has_response, |r| Ok(r.text()?.into()))?,
            correlation_data: self.optional(has_correlation, |r| Ok(Bytes::copy_from_slice(r.bytes()?)))?,
            content_type: self.optional(has_type, |r| Ok(r.text()?.to_owned()))?,
            user: self.list(|r| Ok((r.text()?.to_owned(), r.text()?.to_owned())))?,
            subscription_ids: self.list(Self::number32)?,
        })
    }

    fn waiting(&mut self) -> Result<Waiting> {
        let session = self.id()?;
        let qos = Self::qos(self.byte("QoS")?)?;
        let [retain, received, has_packet_id, sent, is_shared] = self.flags("flags of the delivery")?;
        // Nobody knows of those of older versions.
        let sent = sent || self.1 < 3 && qos == QoS::ExactlyOnce;
        let packet_id = self.optional(has_packet_id, Self::packet_id)?;
        let subscription_ids = self.list(Self::number32)?;
        let share = self.optional(is_shared, |r| Ok(r.text()?.into()))?;
        Ok(Waiting { session, qos, retain, packet_id, subscription_ids, received, sent, share })
    }

    fn intent(&mut self) -> Result<Intent> {
        let (packet_id, name, digest) = (self.packet_id()?, self.number()?, self.digest()?);
        let [stored] = if self.1 == 1 { [false] } else { self.flags("flags of the intent")? };
        Ok(Intent { packet_id, name, digest, stored })
    }

    fn state(&mut self) -> Result<SessionState> {
        let session = self.id()?;
        let client_id = self.text()?.to_owned();
        let owner = self.text()?.to_owned();
        let [has_expiry, queue_continues, has_will, has_time] = self.flags("flags of the session")?;
        if has_time && !has_will {
            return Err(DecodeError::Value("will"));
        }
        let expires_at = self.optional(has_expiry, Self::number)?;
        Ok(SessionState {
            session,
            client_id,
            owner,
            expires_at,
            expiry_s: self.number32()?,
            subscriptions: self.list(Self::subscription)?,
            intents: self.list(Self::intent)?,
            received: self.list(|r| Ok((r.packet_id()?, r.digest()?)))?,
            queue: self.list(|r| Ok((r.number()?, Arc::new(r.message()?), r.waiting()?)))?,
            queue_continues,
            will: self.optional(has_will, |r| {
                Ok((Arc::new(r.message()?), r.number32()?, r.optional(has_time, Self::number)?))
            })?,
        })
    }
}
