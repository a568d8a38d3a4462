//! What we write by hand, read back by the crate that Pulsar's other users decode with.

use proptest::prelude::*;
use pulsar::message::proto::{KeyValue, SingleMessageMetadata};
use pulsar::message::{Codec, Message};
use tokio_util::codec::Decoder as _;

use super::*;
use crate::event::{Event, Timestamp, record};

fn event() -> impl Strategy<Value = Event> {
    let text = "[a-zA-Z0-9/:.äö€-]{1,200}";
    let optional = prop::option::of(text);
    let extensions = prop::collection::btree_map("[a-z0-9]{1,20}", "[ -~]{0,150}", 0..5);
    (text, text, text, optional.clone(), optional, any::<i64>(), extensions, prop::collection::vec(any::<u8>(), 0..600))
        .prop_map(|(id, source, ty, subject, content, ns, extensions, data)| Event {
            id,
            id_is_ours: false,
            source,
            ty,
            subject,
            time: Timestamp::from_unix_ns(ns),
            datacontenttype: content.clone(),
            dataschema: content,
            extensions: extensions.into_iter().collect(),
            data: data.into(),
        })
}

fn expected(event: &Event, seq: u64, late: bool) -> Vec<(String, String)> {
    let mut all = vec![("tg_stream".to_owned(), "n.i.l".to_owned()), ("tg_seq".to_owned(), seq.to_string())];
    if late {
        all.push(("tg_late".into(), "1".into()));
    }
    all.push(("ce_specversion".into(), "1.0".into()));
    all.push(("ce_id".into(), event.id.clone()));
    all.push(("ce_source".into(), event.source.clone()));
    all.push(("ce_type".into(), event.ty.clone()));
    all.push(("ce_time".into(), event.time.to_string()));
    let optional = [
        ("ce_subject", &event.subject),
        ("content-type", &event.datacontenttype),
        ("ce_dataschema", &event.dataschema),
    ];
    all.extend(optional.into_iter().filter_map(|(k, v)| v.clone().map(|v| (k.to_owned(), v))));
    all.extend(event.extensions.iter().map(|(k, v)| (format!("ce_{k}"), v.clone())));
    all
}

fn pairs(properties: &[KeyValue]) -> Vec<(String, String)> {
    properties.iter().map(|p| (p.key.clone(), p.value.clone())).collect()
}

fn event_time(event: &Event) -> Option<u64> {
    u64::try_from(event.time.unix_ms()).ok().filter(|ms| *ms > 0)
}

fn read(mut frame: BytesMut) -> Message {
    let message = Codec.decode(&mut frame).unwrap().unwrap();
    assert!(frame.is_empty(), "the frame's size counts all of it");
    message
}

const SENDER: Sender<'static> = Sender { producer_id: 3, name: "n.i.l@c", publish_time_ms: 5 };

fn write_batch(events: &[(Event, bool)], compression: Compression) -> Message {
    let mut entries = BytesMut::new();
    for (i, (event, late)) in events.iter().enumerate() {
        let mut stored = Vec::new();
        record::encode(event, &mut stored);
        let (event, _) = record::decode(&stored).unwrap();
        batch_entry(&mut entries, &Outgoing { seq: 7 + 2 * i as u64, late: *late, stream: "n.i.l", event });
    }
    let mut out = BytesMut::new();
    batch(&mut out, &SENDER, (7, 5 + 2 * events.len() as u64, events.len()), &entries, compression);
    read(out)
}

fn check_entries(mut payload: &[u8], events: &[(Event, bool)]) -> Result<(), TestCaseError> {
    for (i, (event, late)) in events.iter().enumerate() {
        let seq = 7 + 2 * i as u64;
        let (size, rest) = payload.split_at(4);
        let (metadata, rest) = rest.split_at(u32::from_be_bytes(size.try_into().unwrap()) as usize);
        let metadata = SingleMessageMetadata::decode(metadata).unwrap();
        prop_assert_eq!(pairs(&metadata.properties), expected(event, seq, *late));
        prop_assert_eq!(metadata.partition_key.as_deref(), Some(event.key()));
        prop_assert_eq!(metadata.sequence_id, Some(seq));
        prop_assert_eq!(metadata.event_time, event_time(event));
        let (data, rest) = rest.split_at(metadata.payload_size as usize);
        prop_assert_eq!(data, &event.data[..]);
        payload = rest;
    }
    prop_assert!(payload.is_empty());
    Ok(())
}

proptest! {
    #[test]
    fn a_batch_is_read_back_by_the_crate(events in prop::collection::vec((event(), any::<bool>()), 1..6)) {
        let message = write_batch(&events, Compression::None);
        let send = message.command.send.unwrap();
        let highest = 5 + 2 * events.len() as u64;
        prop_assert_eq!((send.producer_id, send.sequence_id, send.highest_sequence_id), (3, 7, Some(highest)));
        prop_assert_eq!(send.num_messages, Some(events.len() as i32));
        let payload = message.payload.unwrap();
        prop_assert_eq!(payload.metadata.sequence_id, 7);
        prop_assert_eq!(payload.metadata.highest_sequence_id, Some(highest));
        prop_assert_eq!(payload.metadata.num_messages_in_batch, Some(events.len() as i32));
        prop_assert_eq!(payload.metadata.producer_name, "n.i.l@c");
        check_entries(&payload.data, &events)?;
    }

    #[test]
    fn an_event_alone_is_read_back_by_the_crate(event in event(), late in any::<bool>(), seq in any::<u64>()) {
        let mut stored = Vec::new();
        record::encode(&event, &mut stored);
        let (borrowed, _) = record::decode(&stored).unwrap();
        let mut out = BytesMut::new();
        alone(&mut out, &SENDER, &Outgoing { seq, late, stream: "n.i.l", event: borrowed });
        let message = read(out);
        let send = message.command.send.unwrap();
        prop_assert_eq!((send.producer_id, send.sequence_id, send.highest_sequence_id), (3, seq, None));
        let payload = message.payload.unwrap();
        prop_assert_eq!(payload.metadata.num_messages_in_batch, None);
        prop_assert_eq!(payload.metadata.sequence_id, seq);
        prop_assert_eq!(pairs(&payload.metadata.properties), expected(&event, seq, late));
        prop_assert_eq!(payload.metadata.partition_key.as_deref(), Some(event.key()));
        prop_assert_eq!(payload.metadata.event_time, event_time(&event));
        prop_assert_eq!(&payload.data[..], &event.data[..]);
    }
}

#[test]
fn compressed_batches_say_how_and_shrink() {
    let event = Event { data: vec![b'x'; 4000].into(), ..crate::event::tests::sample("1") };
    let events = [(event.clone(), false), (event, true)];
    for (how, kind) in [(Compression::Lz4, CompressionType::Lz4), (Compression::Zstd, CompressionType::Zstd)] {
        let payload = write_batch(&events, how).payload.unwrap();
        assert_eq!(payload.metadata.compression, Some(kind as i32));
        let size = payload.metadata.uncompressed_size.unwrap() as usize;
        assert!(payload.data.len() < size / 4);
        let plain = match how {
            Compression::Lz4 => lz4::block::decompress(&payload.data, Some(size as i32)).unwrap(),
            _ => zstd::bulk::decompress(&payload.data, size).unwrap(),
        };
        check_entries(&plain, &events).unwrap();
    }
}
