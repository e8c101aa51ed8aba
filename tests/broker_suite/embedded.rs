//! The embedded broker is held to every promise.

use std::path::PathBuf;

use px::config::{Broker, BrokerUrl, Scheme, Secret};

use crate::fixture::Fixture;
use crate::promises;
use crate::support::broker_of;

/// A file of the test's own.
struct Embedded(tempfile::TempDir);

impl Embedded {
    fn new() -> Self {
        Embedded(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("broker.db")
    }
}

impl Fixture for Embedded {
    fn broker(&self) -> Broker {
        broker_of(vec![BrokerUrl {
            scheme: Scheme::Embedded,
            user: String::new(),
            password: Secret::default(),
            host: String::new(),
            port: 0,
            vhost: "/".to_owned(),
            path: self.path(),
            heartbeat_s: 30,
            frame_max: 16384,
        }])
    }

    /// There is no server: what dies is a process, and another one finds the file as it was.
    fn crash(&mut self) {}
}

#[tokio::test]
async fn topic_wildcards_match_whole_words() {
    promises::topic_wildcards_match_whole_words(&Embedded::new()).await;
}

#[tokio::test]
async fn a_queue_bound_twice_gets_a_message_once() {
    promises::a_queue_bound_twice_gets_a_message_once(&Embedded::new()).await;
}

#[tokio::test]
async fn direct_routes_by_equal_key() {
    promises::direct_routes_by_equal_key(&Embedded::new()).await;
}

#[tokio::test]
async fn fanout_routes_to_every_queue() {
    promises::fanout_routes_to_every_queue(&Embedded::new()).await;
}

#[tokio::test]
async fn the_default_exchange_routes_by_queue_name() {
    promises::the_default_exchange_routes_by_queue_name(&Embedded::new()).await;
}

#[tokio::test]
async fn declaring_again_changes_nothing() {
    promises::declaring_again_changes_nothing(&Embedded::new()).await;
}

#[tokio::test]
async fn a_queue_without_a_name_is_the_connections_own() {
    promises::a_queue_without_a_name_is_the_connections_own(&Embedded::new()).await;
}

#[tokio::test]
async fn binding_what_is_missing_is_our_own_fault() {
    promises::binding_what_is_missing_is_our_own_fault(&Embedded::new()).await;
}

#[tokio::test]
async fn a_missing_exchange_is_known_before_it_is_published_to() {
    promises::a_missing_exchange_is_known_before_it_is_published_to(&Embedded::new()).await;
}

#[tokio::test]
async fn a_queue_is_deleted_unless_it_is_guarded() {
    promises::a_queue_is_deleted_unless_it_is_guarded(&Embedded::new()).await;
}

#[tokio::test]
async fn an_exchange_is_deleted_with_its_bindings() {
    promises::an_exchange_is_deleted_with_its_bindings(&Embedded::new()).await;
}

#[tokio::test]
async fn depth_counts_what_is_ready() {
    promises::depth_counts_what_is_ready(&Embedded::new()).await;
}

#[tokio::test]
async fn confirm_means_durable() {
    promises::confirm_means_durable(&mut Embedded::new()).await;
}

#[tokio::test]
async fn a_message_arrives_as_it_was_published() {
    promises::a_message_arrives_as_it_was_published(&Embedded::new()).await;
}

#[tokio::test]
async fn ten_mebibytes_arrive_whole() {
    promises::ten_mebibytes_arrive_whole(&Embedded::new()).await;
}

#[tokio::test]
async fn the_publish_that_found_no_queue_is_known() {
    promises::the_publish_that_found_no_queue_is_known(&Embedded::new()).await;
}

#[tokio::test]
async fn publishes_that_found_no_queue_are_counted() {
    promises::publishes_that_found_no_queue_are_counted(&Embedded::new()).await;
}

#[tokio::test]
async fn publishing_to_a_missing_exchange_is_our_own_fault() {
    promises::publishing_to_a_missing_exchange_is_our_own_fault(&Embedded::new()).await;
}

#[tokio::test]
async fn what_cannot_be_carried_is_the_messages_fault() {
    promises::what_cannot_be_carried_is_the_messages_fault(&Embedded::new()).await;
}

#[tokio::test]
async fn a_closed_connection_refuses_at_once() {
    promises::a_closed_connection_refuses_at_once(&Embedded::new()).await;
}

#[tokio::test]
async fn sums_are_equal_over_many_messages() {
    promises::sums_are_equal_over_many_messages(&Embedded::new()).await;
}

#[tokio::test]
async fn deliveries_come_in_order() {
    promises::deliveries_come_in_order(&Embedded::new()).await;
}

#[tokio::test]
async fn prefetch_bounds_what_is_unsettled() {
    promises::prefetch_bounds_what_is_unsettled(&Embedded::new()).await;
}

#[tokio::test]
async fn two_consumers_share_a_queue() {
    promises::two_consumers_share_a_queue(&Embedded::new()).await;
}

#[tokio::test]
async fn what_is_acked_or_rejected_is_gone() {
    promises::what_is_acked_or_rejected_is_gone(&Embedded::new()).await;
}

#[tokio::test]
async fn a_requeued_delivery_comes_again_and_says_so() {
    promises::a_requeued_delivery_comes_again_and_says_so(&Embedded::new()).await;
}

#[tokio::test]
async fn what_a_killed_consumer_held_is_redelivered() {
    promises::what_a_killed_consumer_held_is_redelivered(&Embedded::new()).await;
}

#[tokio::test]
async fn what_a_dropped_connection_held_is_redelivered() {
    promises::what_a_dropped_connection_held_is_redelivered(&Embedded::new()).await;
}

#[tokio::test]
async fn after_a_cancel_deliveries_can_still_be_settled() {
    promises::after_a_cancel_deliveries_can_still_be_settled(&Embedded::new()).await;
}

#[tokio::test]
async fn consuming_a_missing_queue_is_our_own_fault() {
    promises::consuming_a_missing_queue_is_our_own_fault(&Embedded::new()).await;
}

#[tokio::test]
async fn an_unused_queue_expires() {
    promises::an_unused_queue_expires(&Embedded::new()).await;
}

#[tokio::test]
async fn a_delivery_can_be_parked() {
    promises::a_delivery_can_be_parked(&Embedded::new()).await;
}

#[tokio::test]
async fn a_rejected_delivery_is_dead_lettered_where_the_queue_says_so() {
    promises::a_rejected_delivery_is_dead_lettered_where_the_queue_says_so(&Embedded::new()).await;
}
