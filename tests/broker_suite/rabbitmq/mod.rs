//! RabbitMQ is held to every promise, and to some of its own.

mod failures;
mod management;
mod own;

use px::config::Broker;

use crate::fixture::Fixture;
use crate::promises;
use crate::support::{RabbitServer, TestBroker};

/// A virtual host, on the shared node or on a node of its own.
struct Rabbit {
    broker: TestBroker,
    server: Option<RabbitServer>,
}

impl Rabbit {
    fn shared(name: &str) -> Self {
        Rabbit {
            broker: TestBroker::new(name),
            server: None,
        }
    }

    fn alone(name: &str) -> Self {
        let server = RabbitServer::start();
        Rabbit {
            broker: TestBroker::on(&server, name),
            server: Some(server),
        }
    }
}

impl Fixture for Rabbit {
    fn broker(&self) -> Broker {
        self.broker.config()
    }

    fn flush_definitions(&self) {
        self.server.as_ref().expect("a node of its own").flush_definitions();
    }

    fn crash(&mut self) {
        let server = self.server.as_mut().expect("a node of its own");
        server.kill();
        server.start_again();
    }
}

#[tokio::test]
async fn topic_wildcards_match_whole_words() {
    promises::topic_wildcards_match_whole_words(&Rabbit::shared("topic-words")).await;
}

#[tokio::test]
async fn a_queue_bound_twice_gets_a_message_once() {
    promises::a_queue_bound_twice_gets_a_message_once(&Rabbit::shared("a-once")).await;
}

#[tokio::test]
async fn direct_routes_by_equal_key() {
    promises::direct_routes_by_equal_key(&Rabbit::shared("direct-key")).await;
}

#[tokio::test]
async fn fanout_routes_to_every_queue() {
    promises::fanout_routes_to_every_queue(&Rabbit::shared("fanout-queue")).await;
}

#[tokio::test]
async fn the_default_exchange_routes_by_queue_name() {
    promises::the_default_exchange_routes_by_queue_name(&Rabbit::shared("the-name")).await;
}

#[tokio::test]
async fn declaring_again_changes_nothing() {
    promises::declaring_again_changes_nothing(&Rabbit::shared("declaring-nothing")).await;
}

#[tokio::test]
async fn a_queue_without_a_name_is_the_connections_own() {
    promises::a_queue_without_a_name_is_the_connections_own(&Rabbit::shared("nameless")).await;
}

#[tokio::test]
async fn binding_what_is_missing_is_our_own_fault() {
    promises::binding_what_is_missing_is_our_own_fault(&Rabbit::shared("binding-fault")).await;
}

#[tokio::test]
async fn a_missing_exchange_is_known_before_it_is_published_to() {
    promises::a_missing_exchange_is_known_before_it_is_published_to(&Rabbit::shared("exchange-missing")).await;
}

#[tokio::test]
async fn a_queue_is_deleted_unless_it_is_guarded() {
    promises::a_queue_is_deleted_unless_it_is_guarded(&Rabbit::shared("deleted-unless")).await;
}

#[tokio::test]
async fn an_exchange_is_deleted_with_its_bindings() {
    promises::an_exchange_is_deleted_with_its_bindings(&Rabbit::shared("exchange-deleted")).await;
}

#[tokio::test]
async fn depth_counts_what_is_ready() {
    promises::depth_counts_what_is_ready(&Rabbit::shared("depth-ready")).await;
}

#[tokio::test]
async fn confirm_means_durable() {
    promises::confirm_means_durable(&mut Rabbit::alone("durable")).await;
}

#[tokio::test]
async fn a_message_arrives_as_it_was_published() {
    promises::a_message_arrives_as_it_was_published(&Rabbit::shared("a-published")).await;
}

#[tokio::test]
async fn ten_mebibytes_arrive_whole() {
    promises::ten_mebibytes_arrive_whole(&Rabbit::shared("ten-whole")).await;
}

#[tokio::test]
async fn the_publish_that_found_no_queue_is_known() {
    promises::the_publish_that_found_no_queue_is_known(&Rabbit::shared("the-known")).await;
}

#[tokio::test]
async fn publishes_that_found_no_queue_are_counted() {
    promises::publishes_that_found_no_queue_are_counted(&Rabbit::shared("publishes-counted")).await;
}

#[tokio::test]
async fn publishing_to_a_missing_exchange_is_our_own_fault() {
    promises::publishing_to_a_missing_exchange_is_our_own_fault(&Rabbit::shared("publishing-fault")).await;
}

#[tokio::test]
async fn what_cannot_be_carried_is_the_messages_fault() {
    promises::what_cannot_be_carried_is_the_messages_fault(&Rabbit::shared("what-fault")).await;
}

#[tokio::test]
async fn a_closed_connection_refuses_at_once() {
    promises::a_closed_connection_refuses_at_once(&Rabbit::shared("a-once")).await;
}

#[tokio::test]
async fn sums_are_equal_over_many_messages() {
    promises::sums_are_equal_over_many_messages(&Rabbit::shared("sums-messages")).await;
}

#[tokio::test]
async fn deliveries_come_in_order() {
    promises::deliveries_come_in_order(&Rabbit::shared("deliveries-order")).await;
}

#[tokio::test]
async fn prefetch_bounds_what_is_unsettled() {
    promises::prefetch_bounds_what_is_unsettled(&Rabbit::shared("prefetch-unsettled")).await;
}

#[tokio::test]
async fn two_consumers_share_a_queue() {
    promises::two_consumers_share_a_queue(&Rabbit::shared("two-queue")).await;
}

#[tokio::test]
async fn what_is_acked_or_rejected_is_gone() {
    promises::what_is_acked_or_rejected_is_gone(&Rabbit::shared("what-gone")).await;
}

#[tokio::test]
async fn a_requeued_delivery_comes_again_and_says_so() {
    promises::a_requeued_delivery_comes_again_and_says_so(&Rabbit::shared("a-so")).await;
}

#[tokio::test]
async fn what_a_killed_consumer_held_is_redelivered() {
    promises::what_a_killed_consumer_held_is_redelivered(&Rabbit::shared("what-redelivered")).await;
}

#[tokio::test]
async fn what_a_dropped_connection_held_is_redelivered() {
    promises::what_a_dropped_connection_held_is_redelivered(&Rabbit::shared("what-redelivered")).await;
}

#[tokio::test]
async fn after_a_cancel_deliveries_can_still_be_settled() {
    promises::after_a_cancel_deliveries_can_still_be_settled(&Rabbit::shared("after-settled")).await;
}

#[tokio::test]
async fn consuming_a_missing_queue_is_our_own_fault() {
    promises::consuming_a_missing_queue_is_our_own_fault(&Rabbit::shared("consuming-fault")).await;
}

#[tokio::test]
async fn an_unused_queue_expires() {
    promises::an_unused_queue_expires(&Rabbit::shared("an-expires")).await;
}

#[tokio::test]
async fn a_delivery_can_be_parked() {
    promises::a_delivery_can_be_parked(&Rabbit::shared("a-parked")).await;
}

#[tokio::test]
async fn a_rejected_delivery_is_dead_lettered_where_the_queue_says_so() {
    promises::a_rejected_delivery_is_dead_lettered_where_the_queue_says_so(&Rabbit::shared("a-so")).await;
}
