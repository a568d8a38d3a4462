//! What the link asks of brokers. [pure]

use pulsar::message::proto::{
    BaseCommand, CommandAck, CommandCloseConsumer, CommandCloseProducer, CommandFlow, CommandGetLastMessageId,
    CommandPing, CommandRedeliverUnacknowledgedMessages, CommandSubscribe, MessageIdData, base_command::Type,
    command_ack::AckType, command_subscribe::InitialPosition, command_subscribe::SubType,
};

/// The durable subscription of a node's commands.
pub const COMMANDS_SUBSCRIPTION: &str = "tidegate";

/// Where a reader begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Start {
    /// Behind what is there.
    Latest,
    /// At this message, which is included.
    At(MessageIdData),
}

/// A reader that the broker forgets with its connection.
pub fn reader(topic: &str, name: String, consumer_id: u64, request_id: u64, start: Start) -> BaseCommand {
    let at = match start {
        // The greatest id there can be, in Java's signed numbers (MessageId.latest).
        Start::Latest => {
            MessageIdData { ledger_id: i64::MAX as u64, entry_id: i64::MAX as u64, ..MessageIdData::default() }
        }
        Start::At(id) => id,
    };
    BaseCommand {
        r#type: Type::Subscribe as i32,
        subscribe: Some(CommandSubscribe {
            topic: topic.to_owned(),
            subscription: name,
            sub_type: SubType::Exclusive as i32,
            consumer_id,
            request_id,
            durable: Some(false),
            start_message_id: Some(at),
            ..CommandSubscribe::default()
        }),
        ..BaseCommand::default()
    }
}

/// The consumer of a node's commands: one at a time, from the first command on.
pub fn consumer(topic: &str, consumer_id: u64, request_id: u64, name: &str) -> BaseCommand {
    BaseCommand {
        r#type: Type::Subscribe as i32,
        subscribe: Some(CommandSubscribe {
            topic: topic.to_owned(),
            subscription: COMMANDS_SUBSCRIPTION.to_owned(),
            sub_type: SubType::Exclusive as i32,
            consumer_id,
            request_id,
            consumer_name: Some(name.to_owned()),
            durable: Some(true),
            initial_position: Some(InitialPosition::Earliest as i32),
            ..CommandSubscribe::default()
        }),
        ..BaseCommand::default()
    }
}

/// Which message is the last of the consumer's topic.
pub fn last_message(consumer_id: u64, request_id: u64) -> BaseCommand {
    BaseCommand {
        r#type: Type::GetLastMessageId as i32,
        get_last_message_id: Some(CommandGetLastMessageId { consumer_id, request_id }),
        ..BaseCommand::default()
    }
}

/// Room for so many messages more.
pub fn flow(consumer_id: u64, permits: u32) -> BaseCommand {
    BaseCommand {
        r#type: Type::Flow as i32,
        flow: Some(CommandFlow { consumer_id, message_permits: permits }),
        ..BaseCommand::default()
    }
}

/// `id` is done with, alone or with all before it.
pub fn ack(consumer_id: u64, how: AckType, id: MessageIdData) -> BaseCommand {
    BaseCommand {
        r#type: Type::Ack as i32,
        ack: Some(CommandAck { consumer_id, ack_type: how as i32, message_id: vec![id], ..CommandAck::default() }),
        ..BaseCommand::default()
    }
}

/// All that is not acknowledged once more. An exclusive consumer cannot name single messages.
pub fn redeliver(consumer_id: u64) -> BaseCommand {
    BaseCommand {
        r#type: Type::RedeliverUnacknowledgedMessages as i32,
        redeliver_unacknowledged_messages: Some(CommandRedeliverUnacknowledgedMessages {
            consumer_id,
            ..CommandRedeliverUnacknowledgedMessages::default()
        }),
        ..BaseCommand::default()
    }
}

/// No more of this consumer.
pub fn close_consumer(consumer_id: u64, request_id: u64) -> BaseCommand {
    BaseCommand {
        r#type: Type::CloseConsumer as i32,
        close_consumer: Some(CommandCloseConsumer { consumer_id, request_id }),
        ..BaseCommand::default()
    }
}

/// No more of this producer: its name is free.
pub fn close_producer(producer_id: u64, request_id: u64) -> BaseCommand {
    BaseCommand {
        r#type: Type::CloseProducer as i32,
        close_producer: Some(CommandCloseProducer { producer_id, request_id }),
        ..BaseCommand::default()
    }
}

/// Are you there?
pub fn ping() -> BaseCommand {
    BaseCommand { r#type: Type::Ping as i32, ping: Some(CommandPing {}), ..BaseCommand::default() }
}
