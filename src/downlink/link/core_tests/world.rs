//! Two brokers with three topics, a network that delivers late or not at all, and somebody who takes commands: the
//! world that the core is driven through.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pulsar::message::proto::{
    CommandCloseConsumer, CommandCloseProducer, CommandError, CommandGetLastMessageIdResponse,
    CommandLookupTopicResponse, CommandMessage, CommandProducerSuccess, CommandSubscribe, CommandSuccess,
    MessageIdData, ServerError, base_command::Type, command_lookup_topic_response::LookupType,
    command_subscribe::InitialPosition,
};

use super::*;
use crate::downlink::link::{COMMANDS_MAX, REPORTS_MAX};
use crate::pulsar::names;

/// What the broker has open for a connection.
#[derive(Debug)]
struct Consumer {
    part: Part,
    permits: i64,
    next: u64,
}

/// A connection, as the network and the brokers see it.
#[derive(Debug)]
struct Line {
    place: Place,
    up: bool,
    /// Our end is gone, and the broker does not know yet.
    zombie: bool,
    coming: VecDeque<Input>,
    consumers: BTreeMap<u64, Consumer>,
    producers: BTreeSet<u64>,
}

pub struct World {
    pub core: Core,
    pub now: Instant,
    lines: BTreeMap<u64, Line>,
    /// Which of the two brokers has a part's topic.
    owner: [usize; 3],
    /// Messages of the inbox; each is its number.
    pub inbox: u64,
    pub commands: u64,
    acked: BTreeSet<u64>,
    stored: Vec<u64>,
    last_seq: i64,
    /// Commands that somebody has.
    pub hands: Vec<Key>,
    taken: BTreeSet<u64>,
    /// The last inbox message heard.
    pub heard: Option<u64>,
    reports: u64,
    answered: BTreeMap<u64, Result<(), NotSent>>,
    pub connections: u64,
    out: Vec<Effect>,
}

fn address(broker: usize) -> Address {
    Address { host: "broker".to_owned(), port: broker as u16 + 1, tls: false }
}

fn settings() -> Settings {
    Settings {
        addresses: vec![address(0), address(1)],
        connector: crate::pulsar::wire::Connector {
            credentials: crate::pulsar::credentials::Credentials::None,
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
        },
        tenant: "t".to_owned(),
        node: "n".to_owned(),
        incarnation: "i".to_owned(),
        retry_max: Duration::from_millis(800),
    }
}

fn part_of(topic: &str) -> Part {
    let parts = [
        (Part::Inbox, names::inbox_topic("t", "n")),
        (Part::Commands, names::commands_topic("t", "n")),
        (Part::Reports, names::reports_topic("t")),
    ];
    parts.iter().find(|(_, name)| name == topic).map(|(part, _)| *part).unwrap()
}

fn answer(kind: Type, set: impl FnOnce(&mut BaseCommand)) -> BaseCommand {
    let mut command = BaseCommand { r#type: kind as i32, ..BaseCommand::default() };
    set(&mut command);
    command
}

fn error(request_id: u64, error: ServerError) -> BaseCommand {
    let error = CommandError { request_id, error: error as i32, message: "no".to_owned() };
    answer(Type::Error, |c| c.error = Some(error))
}

fn success(request_id: u64) -> BaseCommand {
    answer(Type::Success, |c| c.success = Some(CommandSuccess { request_id, schema: None }))
}

impl World {
    pub fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut world = Self {
            core: Core::new(settings(), seed, now),
            now,
            lines: BTreeMap::new(),
            owner: [0; 3],
            inbox: 0,
            commands: 0,
            acked: BTreeSet::new(),
            stored: Vec::new(),
            last_seq: -1,
            hands: Vec::new(),
            taken: BTreeSet::new(),
            heard: None,
            reports: 0,
            answered: BTreeMap::new(),
            connections: 0,
            out: Vec::new(),
        };
        world.tell(Input::Time);
        world
    }

    pub fn tell(&mut self, input: Input) {
        let before = self.core.is_connected();
        self.core.handle(input, self.now, &mut self.out);
        for effect in std::mem::take(&mut self.out) {
            self.apply(effect, before);
        }
        assert!(self.core.wires.len() <= 3, "one connection a part is the most: {:?}", self.core.wires);
        assert!(self.hands.len() <= COMMANDS_MAX, "{} commands in hand", self.hands.len());
        assert!(self.core.sent.len() <= REPORTS_MAX);
        assert!(self.core.deadline().is_none_or(|at| at > self.now), "it would spin: {:?}", self.core);
    }

    fn apply(&mut self, effect: Effect, before: bool) {
        match effect {
            Effect::Connect(id, address, proxied) => {
                let line = Line {
                    place: (address, proxied),
                    up: false,
                    zombie: false,
                    coming: VecDeque::new(),
                    consumers: BTreeMap::new(),
                    producers: BTreeSet::new(),
                };
                assert!(self.lines.insert(id, line).is_none(), "a connection's number was used twice");
            }
            // Our end closes: the broker finds that out at once, or never hears of it.
            Effect::Drop(id) => self.leave(id, true),
            Effect::Finish(id) => self.leave(id, false),
            Effect::Send(id, command) => self.broker(id, *command),
            Effect::Publish(id, producer, seq, bytes) => self.store(id, producer, seq, &bytes),
            Effect::Answer(number, outcome) => {
                assert!(self.answered.insert(number, outcome).is_none(), "report {number} was answered twice");
            }
            Effect::Connected => {
                assert!(!before);
                self.connections += 1;
            }
            Effect::Inbox(_, bytes) => {
                let n = text(&bytes);
                // At each opening the newest once more, and never an older one.
                assert!(self.heard.is_none_or(|last| n >= last), "{n} after {:?}", self.heard);
                self.heard = Some(n);
            }
            Effect::Command(bytes, key) => {
                assert_eq!(text(&bytes), key.1);
                assert!(!self.hands.contains(&key), "{key:?} is in somebody's hands already");
                self.hands.push(key);
            }
            Effect::Token(_) | Effect::Unfit(..) => panic!("{effect:?}"),
            Effect::Opened(_) | Effect::Failed(..) | Effect::Empty(_) => {}
        }
    }

    fn leave(&mut self, id: u64, zombie: bool) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.zombie = zombie && line.up;
        if !line.zombie {
            self.lines.remove(&id);
        }
    }

    fn open_line(&mut self, id: u64) -> Option<&mut Line> {
        self.lines.get_mut(&id).filter(|l| l.up && !l.zombie)
    }

    /// The broker gets a command and answers.
    fn broker(&mut self, id: u64, command: BaseCommand) {
        let end = self.inbox;
        let Some(line) = self.open_line(id) else { return };
        let here = usize::from(line.place.0.port) - 1;
        let reply = if command.ping.is_some() {
            Some(answer(Type::Pong, |c| c.pong = Some(Default::default())))
        } else if let Some(asked) = command.lookup_topic {
            let owner = address(self.owner[part_of(&asked.topic) as usize]);
            Some(answer(Type::LookupResponse, |c| {
                c.lookup_topic_response = Some(CommandLookupTopicResponse {
                    broker_service_url: Some(format!("pulsar://{}", owner.authority())),
                    response: Some(LookupType::Connect as i32),
                    request_id: asked.request_id,
                    ..CommandLookupTopicResponse::default()
                });
            }))
        } else if let Some(asked) = command.subscribe {
            Some(self.subscribe(id, here, &asked))
        } else if let Some(asked) = command.get_last_message_id {
            let last = MessageIdData { ledger_id: 1, entry_id: end.wrapping_sub(1), ..MessageIdData::default() };
            // It may have been closed meanwhile, by an unload.
            Some(match line.consumers.contains_key(&asked.consumer_id) {
                true => answer(Type::GetLastMessageIdResponse, |c| {
                    c.get_last_message_id_response = Some(CommandGetLastMessageIdResponse {
                        last_message_id: last,
                        request_id: asked.request_id,
                        consumer_mark_delete_position: None,
                    });
                }),
                false => error(asked.request_id, ServerError::MetadataError),
            })
        } else if let Some(asked) = command.producer {
            let busy = self.lines.values().any(|l| !l.producers.is_empty());
            Some(if self.owner[Part::Reports as usize] != here {
                error(asked.request_id, ServerError::ServiceNotReady)
            } else if busy {
                error(asked.request_id, ServerError::ProducerBusy)
            } else {
                self.open_line(id).unwrap().producers.insert(asked.producer_id);
                let last = self.last_seq;
                answer(Type::ProducerSuccess, |c| {
                    c.producer_success = Some(CommandProducerSuccess {
                        request_id: asked.request_id,
                        producer_name: asked.producer_name.clone().unwrap(),
                        last_sequence_id: Some(last),
                        ..CommandProducerSuccess::default()
                    });
                })
            })
        } else if let Some(closed) = command.close_consumer {
            line.consumers.remove(&closed.consumer_id);
            Some(success(closed.request_id))
        } else if let Some(closed) = command.close_producer {
            line.producers.remove(&closed.producer_id);
            Some(success(closed.request_id))
        } else {
            self.consume(id, command);
            None
        };
        if let (Some(reply), Some(line)) = (reply, self.open_line(id)) {
            line.coming.push_back(Input::Command(id, Box::new(reply)));
        }
        self.dispatch();
    }

    fn subscribe(&mut self, id: u64, here: usize, asked: &CommandSubscribe) -> BaseCommand {
        let part = part_of(&asked.topic);
        if self.owner[part as usize] != here {
            return error(asked.request_id, ServerError::ServiceNotReady);
        }
        let durable = asked.durable.unwrap();
        let busy = |l: &Line| l.consumers.values().any(|c| c.part == part);
        if durable && self.lines.values().any(busy) {
            return error(asked.request_id, ServerError::ConsumerBusy);
        }
        let next = match &asked.start_message_id {
            None => {
                assert_eq!(asked.initial_position, Some(InitialPosition::Earliest as i32));
                0
            }
            Some(at) if at.ledger_id == i64::MAX as u64 => self.inbox,
            Some(at) => at.entry_id,
        };
        let consumer = Consumer { part, permits: 0, next };
        assert!(self.open_line(id).unwrap().consumers.insert(asked.consumer_id, consumer).is_none());
        success(asked.request_id)
    }

    /// Flow, acknowledgements, redelivery.
    fn consume(&mut self, id: u64, command: BaseCommand) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        if let Some(flow) = command.flow
            && let Some(consumer) = line.consumers.get_mut(&flow.consumer_id)
        {
            consumer.permits += i64::from(flow.message_permits);
        } else if let Some(again) = command.redeliver_unacknowledged_messages
            && let Some(consumer) = line.consumers.get_mut(&again.consumer_id)
        {
            consumer.next = 0;
        } else if let Some(ack) = command.ack
            && let Some(consumer) = line.consumers.get(&ack.consumer_id)
            && consumer.part == Part::Commands
        {
            for id in ack.message_id {
                assert!(self.taken.contains(&id.entry_id), "{} is acknowledged and was not taken", id.entry_id);
                self.acked.insert(id.entry_id);
            }
        }
    }

    /// Brokers send what there is to whom there is room for.
    fn dispatch(&mut self) {
        for (id, line) in &mut self.lines {
            for (consumer_id, consumer) in &mut line.consumers {
                let end = if consumer.part == Part::Inbox { self.inbox } else { self.commands };
                while consumer.permits > 0 && consumer.next < end {
                    let entry_id = consumer.next;
                    consumer.next += 1;
                    if consumer.part == Part::Commands && self.acked.contains(&entry_id) {
                        continue;
                    }
                    consumer.permits -= 1;
                    let to = CommandMessage {
                        consumer_id: *consumer_id,
                        message_id: MessageIdData { ledger_id: 1, entry_id, ..MessageIdData::default() },
                        ..CommandMessage::default()
                    };
                    let content = Ok(vec![Bytes::from(entry_id.to_string())]);
                    line.coming.push_back(Input::Message(*id, Box::new(Incoming { to, permits: Some(1), content })));
                }
                assert!(consumer.permits <= COMMANDS_MAX as i64, "too much room: {consumer:?}");
            }
        }
    }

    fn store(&mut self, id: u64, producer: u64, seq: u64, bytes: &[u8]) {
        let last = self.last_seq;
        let Some(line) = self.open_line(id).filter(|l| l.producers.contains(&producer)) else { return };
        assert!(seq as i64 > last, "a producer began below the broker's last sequence");
        let receipt = pulsar::message::proto::CommandSendReceipt {
            producer_id: producer,
            sequence_id: seq,
            message_id: None,
            highest_sequence_id: None,
        };
        line.coming
            .push_back(Input::Command(id, Box::new(answer(Type::SendReceipt, |c| c.send_receipt = Some(receipt)))));
        self.last_seq = seq as i64;
        self.stored.push(text(bytes));
    }

    // What may happen.

    /// A connection attempt ends.
    pub fn connect(&mut self, works: bool) {
        let Some(id) = self.lines.iter().find(|(_, l)| !l.up).map(|(id, _)| *id) else { return };
        if works {
            self.lines.get_mut(&id).unwrap().up = true;
            self.tell(Input::Up(id));
        } else {
            self.cut(id);
        }
    }

    fn cut(&mut self, id: u64) {
        let broker = self.lines[&id].place.0.authority();
        self.leave(id, true);
        self.tell(Input::Lost(id, LinkError::Lost { broker, reason: "cut".to_owned() }));
    }

    /// The `n`th connection is cut.
    pub fn cut_one(&mut self, n: usize) {
        let ids: Vec<u64> = self.lines.iter().filter(|(_, l)| l.up && !l.zombie).map(|(id, _)| *id).collect();
        if !ids.is_empty() {
            self.cut(ids[n % ids.len()]);
        }
    }

    /// The process ends without a word, and begins again.
    pub fn restart(&mut self, seed: u64) {
        self.lines.retain(|_, l| l.up);
        // Numbers of connections begin anew.
        let old = std::mem::take(&mut self.lines);
        self.lines.extend(old.into_iter().map(|(id, line)| (id + (1 << 32), Line { zombie: true, ..line })));
        for number in 1..=self.reports {
            self.answered.entry(number).or_insert(Err(NotSent::Stopped));
        }
        (self.hands, self.heard) = (Vec::new(), None);
        self.core = Core::new(settings(), seed, self.now);
        self.tell(Input::Time);
    }

    /// Brokers find connections dead.
    pub fn notice(&mut self) {
        self.lines.retain(|_, l| !l.zombie);
    }

    /// Up to `n` of what is on its way arrives.
    pub fn deliver(&mut self, n: usize) {
        for _ in 0..n {
            let coming = self.lines.iter_mut().find(|(_, l)| l.up && !l.zombie && !l.coming.is_empty());
            let Some((id, input)) = coming.map(|(id, l)| (*id, l.coming.pop_front().unwrap())) else { return };
            self.tell(Input::Heard(id));
            self.tell(input);
        }
    }

    /// A part's topic is unloaded, and loaded by `owner`.
    pub fn unload(&mut self, part: Part, owner: usize) {
        self.owner[part as usize] = owner;
        for (id, line) in &mut self.lines {
            let mut closed = Vec::new();
            line.consumers.retain(|consumer, c| {
                let stays = c.part != part;
                if !stays {
                    let close = CommandCloseConsumer { consumer_id: *consumer, request_id: 0 };
                    closed.push(answer(Type::CloseConsumer, |c| c.close_consumer = Some(close)));
                }
                stays
            });
            if part == Part::Reports {
                for producer_id in std::mem::take(&mut line.producers) {
                    let close = CommandCloseProducer { producer_id, request_id: 0 };
                    closed.push(answer(Type::CloseProducer, |c| c.close_producer = Some(close)));
                }
            }
            line.coming.extend(closed.into_iter().map(|c| Input::Command(*id, Box::new(c))));
        }
    }

    pub fn append_inbox(&mut self) {
        self.inbox += 1;
        self.dispatch();
    }

    pub fn append_command(&mut self) {
        self.commands += 1;
        self.dispatch();
    }

    /// Somebody is done with the `n`th command in hand.
    pub fn settle(&mut self, n: usize, taken: bool) {
        if self.hands.is_empty() {
            return;
        }
        let key = self.hands.remove(n % self.hands.len());
        if taken {
            self.taken.insert(key.1);
        }
        self.tell(Input::Settled(key, taken));
    }

    pub fn report(&mut self) -> u64 {
        self.reports += 1;
        self.tell(Input::Report(self.reports, self.reports.to_string().into_bytes()));
        self.reports
    }

    pub fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        self.tell(Input::Time);
    }

    /// Whether report `n` is stored, if its sender was told so; `None`: not answered.
    pub fn told(&self, n: u64) -> Option<Result<(), NotSent>> {
        self.answered.get(&n).cloned()
    }

    /// Everybody is well from here on: in how many rounds everything has come through.
    pub fn calm(&mut self) {
        let last = self.report();
        let mut retry = last;
        for _ in 0..400 {
            self.notice();
            while self.lines.values().any(|l| !l.up) {
                self.connect(true);
            }
            self.deliver(1000);
            while !self.hands.is_empty() {
                self.settle(0, true);
            }
            self.deliver(1000);
            if self.answered.get(&retry).is_some_and(Result::is_err) {
                retry = self.report();
            }
            let heard = self.inbox == 0 || self.heard == Some(self.inbox - 1);
            let stored = self.answered.get(&retry) == Some(&Ok(()));
            if self.core.is_connected() && heard && stored && self.acked.len() as u64 == self.commands {
                return self.check();
            }
            let next = self.core.deadline().map_or(Duration::from_secs(1), |at| at.saturating_duration_since(self.now));
            self.pass(next.as_millis() as u64 + 1);
        }
        panic!("it does not come to rest: {:#?}\n{:#?}", self.core, self.lines);
    }

    fn check(&self) {
        for (number, outcome) in &self.answered {
            if outcome.is_ok() {
                assert!(self.stored.contains(number), "report {number} is said to be stored");
            }
        }
        assert_eq!(self.answered.len() as u64, self.reports, "a report was never answered");
        let unique: BTreeSet<_> = self.stored.iter().collect();
        assert_eq!(unique.len(), self.stored.len(), "the broker's rule drops repetitions");
    }
}

fn text(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}
