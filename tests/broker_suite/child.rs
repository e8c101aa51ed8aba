//! A consumer in a process of its own, so that it can be killed for real.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use px::broker::Purpose;
use px::config::{Broker, BrokerUrl, Scheme, Secret};

use crate::fixture::open;
use crate::support::broker_of;

const BROKER: &str = "PX_TEST_CHILD_BROKER";
const QUEUE: &str = "PX_TEST_CHILD_QUEUE";
/// The child ends by itself if nobody kills it.
const LIFE: Duration = Duration::from_secs(120);

/// Starts a process that takes one delivery and holds it; returns once it has it.
pub fn start_holder(broker: &Broker, queue: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("test program"));
    command.args(["--exact", "child::holder", "--ignored", "--nocapture"]);
    command.env(BROKER, encode(broker)).env(QUEUE, queue);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("child");
    let output = BufReader::new(child.stdout.take().expect("stdout"));
    assert!(
        output
            .lines()
            .map_while(Result::ok)
            .any(|line| line.ends_with("holding")),
        "the child holds a delivery"
    );
    child
}

#[tokio::test]
#[ignore = "started by other tests, as a process to be killed"]
async fn holder() {
    let broker = decode(&std::env::var(BROKER).expect("started by start_holder"));
    let connection = open(&broker, Purpose::Consume).await;
    let queue = std::env::var(QUEUE).expect("started by start_holder");
    let mut subscription = connection.subscribe(&queue, 1).await.expect("subscribe");
    let _held = subscription.next().await.expect("next");
    println!("\nholding");
    // Nothing lost: either way it ends.
    let _ = tokio::time::timeout(LIFE, connection.closed()).await;
}

fn encode(broker: &Broker) -> String {
    let url = &broker.urls[0];
    let scheme = match url.scheme {
        Scheme::Embedded => "embedded",
        _ => "amqp",
    };
    let path = url.path.display();
    format!(
        "{scheme}\n{}\n{}\n{}\n{}\n{}\n{path}",
        url.user,
        url.password.expose(),
        url.host,
        url.port,
        url.vhost
    )
}

fn decode(text: &str) -> Broker {
    let [scheme, user, password, host, port, vhost, path] = text.split('\n').collect::<Vec<_>>()[..] else {
        panic!("seven lines: {text}");
    };
    broker_of(vec![BrokerUrl {
        scheme: if scheme == "embedded" {
            Scheme::Embedded
        } else {
            Scheme::Amqp
        },
        user: user.to_owned(),
        password: Secret::new(password),
        host: host.to_owned(),
        port: port.parse().expect("port"),
        vhost: vhost.to_owned(),
        path: PathBuf::from(path),
        heartbeat_s: 30,
        frame_max: 16384,
    }])
}
