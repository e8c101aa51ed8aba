//! A virtual host with queues, and a site whose reaper looks at it.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use px::broker::{Connection, Purpose, Received, Returns, Subscription, connect};
use px::message::{Envelope, Queue, Topology};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::{PX, Said, TestBroker, TestSite, spawn_kept, wait_until};

/// Statistics are up to 5 s old, and the machine may be busy.
pub const STATISTICS: Duration = Duration::from_secs(60);
/// Confirms that are waited for at once.
const WINDOW: usize = 500;

pub struct World {
    pub site: TestSite,
    pub broker: TestBroker,
    runtime: Runtime,
    connection: Box<dyn Connection>,
}

/// Consumes from a queue and settles nothing.
pub struct Consumer<'a> {
    runtime: &'a Runtime,
    subscription: Box<dyn Subscription>,
}

impl World {
    /// A reaper with these options beside `broker`, which asks the broker's own management API.
    pub fn new(name: &str, options: &str) -> World {
        let broker = TestBroker::new(name);
        let management = broker.management().0.to_owned();
        World::asking(broker, &management, options)
    }

    /// The same, with its management API at this address.
    pub fn asking(broker: TestBroker, management: &str, options: &str) -> World {
        let (user, password) = broker.management().1.split_once(':').expect("user:password");
        let management = management.replace("http://", &format!("http://{user}:{password}@"));
        let site = TestSite::with_site_file(&format!(
            "[brokers.main]\nurls = [{:?}]\nmanagement = {{ url = {management:?} }}\n[reaper]\nbroker = \"main\"\n{options}\n",
            broker.amqp_url()
        ));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let connection = runtime
            .block_on(connect(&broker.config(), Purpose::Consume, "fleet"))
            .expect("connect");
        World {
            site,
            broker,
            runtime,
            connection,
        }
    }

    pub fn path(&self, queue: &str) -> String {
        let queue = utf8_percent_encode(queue, NON_ALPHANUMERIC);
        format!("/api/queues/{}/{queue}", self.broker.vhost)
    }

    /// A durable queue with these arguments.
    pub fn make(&self, queue: &str, arguments: Value) {
        self.make_as(
            queue,
            &json!({"durable": true, "auto_delete": false, "arguments": arguments}),
        );
    }

    pub fn make_as(&self, queue: &str, body: &Value) {
        self.broker.api("PUT", &self.path(queue), Some(&body.to_string())).ok();
    }

    /// An exclusive queue of this test's connection.
    pub fn make_exclusive(&self, queue: &str) {
        self.declare(Queue {
            name: queue.into(),
            exclusive: true,
            ..Queue::default()
        });
    }

    /// By AMQP, where any name will do.
    pub fn make_durable(&self, queue: &str) {
        self.declare(Queue {
            name: queue.into(),
            durable: true,
            ..Queue::default()
        });
    }

    fn declare(&self, queue: Queue) {
        let topology = Topology {
            queues: vec![queue],
            ..Topology::default()
        };
        self.runtime
            .block_on(self.connection.declare(&topology))
            .expect("declare");
    }

    /// Messages of these sizes, confirmed.
    pub fn fill(&self, queue: &str, sizes: impl IntoIterator<Item = usize>) {
        let sizes: Vec<usize> = sizes.into_iter().collect();
        self.runtime.block_on(async {
            for window in sizes.chunks(WINDOW) {
                let mut confirms = Vec::new();
                for size in window {
                    let envelope = Envelope {
                        key: queue.into(),
                        body: vec![b'x'; *size],
                        ..Envelope::default()
                    };
                    let confirm = self.connection.publish("", &envelope, Returns::Counted).await;
                    confirms.push(confirm.expect("publish"));
                }
                for confirm in confirms {
                    confirm.await.expect("confirm");
                }
            }
        });
    }

    /// A consumer that has one delivery in hand, if there is one.
    pub fn consumer(&self, queue: &str) -> Consumer<'_> {
        let subscription = self.runtime.block_on(self.connection.subscribe(queue, 1));
        Consumer {
            runtime: &self.runtime,
            subscription: subscription.expect("subscribe"),
        }
    }

    /// Ready messages; `None`: no such queue. At once, without statistics.
    pub fn depth(&self, queue: &str) -> Option<u64> {
        self.runtime.block_on(self.connection.depth(queue)).expect("depth")
    }

    /// Every queue, as the management API has it.
    pub fn listed(&self) -> BTreeMap<String, Value> {
        let path = format!("/api/queues/{}", self.broker.vhost);
        let queues = self.broker.api("GET", &path, None).json();
        let queues = queues.as_array().expect("a list").iter();
        queues
            .map(|queue| (queue["name"].as_str().expect("a name").to_owned(), queue.clone()))
            .collect()
    }

    /// Waits until the statistics of these queues say so: messages, consumers.
    #[track_caller]
    pub fn wait_figures<'a>(&self, figures: impl IntoIterator<Item = (&'a str, u64, u64)> + Clone) {
        let mut listed = BTreeMap::new();
        wait_until(STATISTICS, "the statistics are up to date", || {
            listed = self.listed();
            figures.clone().into_iter().all(|(queue, messages, consumers)| {
                listed[queue]["messages"] == messages && listed[queue]["consumers"] == consumers
            })
        });
    }

    /// `px reap --json`, which must end with this code.
    #[track_caller]
    pub fn reap(&self, code: i32, more: &[&str]) -> Value {
        let arguments: Vec<&str> = ["reap", "--json"].iter().chain(more).copied().collect();
        let said = self.site.px_ends(code, &arguments);
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    /// A `px reap` that goes on beside the test, and dies with it.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", PX, "reap"]).args(arguments);
        command.env("PX_ROOT", self.site.root()).env_remove("PXROOT");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        spawn_kept(command).expect("px")
    }
}

impl Consumer<'_> {
    /// Keeps a delivery in hand, and is no consumer any more.
    pub fn hold_and_cancel(mut self) -> (Received, Box<dyn Subscription>) {
        self.runtime.block_on(async {
            let held = self.subscription.next().await.expect("a delivery");
            self.subscription.cancel().await;
            (held, self.subscription)
        })
    }

    /// No consumer any more; what it had in hand goes back.
    pub fn leave(mut self) {
        self.runtime.block_on(self.subscription.cancel());
    }
}

/// The end of a process that was begun.
pub fn ended(child: Child) -> Said {
    let output = child.wait_with_output().expect("px");
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// The names of the queues of a report that had this outcome.
pub fn with_outcome(report: &Value, outcome: &str) -> Vec<String> {
    let queues = report["queues"].as_array().expect("queues").iter();
    let found = queues.filter(|queue| queue["outcome"] == outcome);
    found
        .map(|queue| queue["queue"].as_str().expect("a name").to_owned())
        .collect()
}

/// What a report says of a queue.
#[track_caller]
pub fn of<'a>(report: &'a Value, queue: &str) -> &'a Value {
    let queues = report["queues"].as_array().expect("queues").iter();
    let mut found = queues.filter(|found| found["queue"] == queue);
    found.next().unwrap_or_else(|| panic!("{queue:?} is not in {report:#}"))
}
