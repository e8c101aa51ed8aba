//! A virtual host of one's own on a RabbitMQ node, gone when dropped.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use px::config::{Broker, BrokerUrl, Scheme, Secret};

use super::http::{Reply, request};
use super::rabbit::RabbitServer;

/// Address of the shared node, set by `scripts/test`: `amqp://USER:PASSWORD@HOST:PORT http://HOST:PORT`.
const SHARED: &str = "PX_TEST_RABBITMQ";

/// A virtual host `px-test-NAME-PID-N`.
pub struct TestBroker {
    pub vhost: String,
    host: String,
    port: u16,
    login: String,
    management: String,
    users: Mutex<Vec<String>>,
    /// A node that lives for this test, where `scripts/test` has not started one.
    _server: Option<Arc<RabbitServer>>,
}

impl TestBroker {
    /// On the node that `scripts/test` has started, or else on one that lives as long as a test uses it.
    pub fn new(name: &str) -> Self {
        match std::env::var(SHARED) {
            Ok(shared) => {
                let (amqp, management) = shared
                    .split_once(' ')
                    .expect("PX_TEST_RABBITMQ is AMQP_URL MANAGEMENT_URL");
                let (login, address) = amqp
                    .trim_start_matches("amqp://")
                    .split_once('@')
                    .expect("user:password@");
                let (host, port) = address.trim_end_matches('/').split_once(':').expect("host:port");
                Self::make(name, host, port.parse().expect("port"), login, management, None)
            }
            Err(_) => {
                let server = lazy_server();
                let management = server.management_url();
                Self::make(
                    name,
                    "127.0.0.1",
                    server.amqp_port(),
                    "admin:admin",
                    &management,
                    Some(server),
                )
            }
        }
    }

    /// On this node.
    pub fn on(server: &RabbitServer, name: &str) -> Self {
        Self::make(
            name,
            "127.0.0.1",
            server.amqp_port(),
            "admin:admin",
            &server.management_url(),
            None,
        )
    }

    fn make(
        name: &str,
        host: &str,
        port: u16,
        login: &str,
        management: &str,
        server: Option<Arc<RabbitServer>>,
    ) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let broker = TestBroker {
            vhost: format!("px-test-{name}-{}-{count}", std::process::id()),
            host: host.to_owned(),
            port,
            login: login.to_owned(),
            management: management.to_owned(),
            users: Mutex::default(),
            _server: server,
        };
        broker
            .api("PUT", &format!("/api/vhosts/{}", broker.vhost), Some("{}"))
            .ok();
        broker.permit(login.split(':').next().expect("user"), ".*", ".*", ".*");
        broker
    }

    /// The site file's view of it.
    pub fn config(&self) -> Broker {
        let (user, password) = self.login.split_once(':').expect("user:password");
        broker_of(vec![self.url(user, password)])
    }

    /// One candidate URL.
    pub fn url(&self, user: &str, password: &str) -> BrokerUrl {
        BrokerUrl {
            scheme: Scheme::Amqp,
            user: user.to_owned(),
            password: Secret::new(password),
            host: self.host.clone(),
            port: self.port,
            vhost: self.vhost.clone(),
            path: PathBuf::new(),
            heartbeat_s: 30,
            frame_max: 16384,
        }
    }

    /// `amqp://user:password@host:port/vhost`, as a site would write it.
    pub fn amqp_url(&self) -> String {
        format!("amqp://{}@{}:{}/{}", self.login, self.host, self.port, self.vhost)
    }

    /// `http://host:port` of the management API, and its user:password.
    pub fn management(&self) -> (&str, &str) {
        (&self.management, &self.login)
    }

    /// Makes a user with these permissions (regular expressions); it goes with the broker. The answer is the
    /// broker's configuration for that user.
    pub fn user(&self, name: &str, configure: &str, write: &str, read: &str) -> Broker {
        let user = format!("{}-{name}", self.vhost);
        let body = r#"{"password": "canary-password", "tags": ""}"#;
        self.api("PUT", &format!("/api/users/{user}"), Some(body)).ok();
        self.users.lock().unwrap().push(user.clone());
        self.permit(&user, configure, write, read);
        broker_of(vec![self.url(&user, "canary-password")])
    }

    /// Sets the permissions of a user here.
    pub fn permit(&self, user: &str, configure: &str, write: &str, read: &str) {
        let body = serde_json::json!({ "configure": configure, "write": write, "read": read });
        self.api(
            "PUT",
            &format!("/api/permissions/{}/{user}", self.vhost),
            Some(&body.to_string()),
        )
        .ok();
    }

    /// Deletes a queue.
    pub fn delete_queue(&self, queue: &str) {
        let queue = utf8_percent_encode(queue, NON_ALPHANUMERIC);
        self.api("DELETE", &format!("/api/queues/{}/{queue}", self.vhost), None)
            .ok();
    }

    /// A call of the management API; `path` starts with `/api/`.
    pub fn api(&self, method: &str, path: &str, body: Option<&str>) -> Reply {
        request(&self.management, &self.login, method, path, &[], body).expect("management API")
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        let users = std::mem::take(&mut *self.users.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let paths = users.into_iter().map(|user| format!("/api/users/{user}"));
        for path in paths.chain([format!("/api/vhosts/{}", self.vhost)]) {
            // Nothing lost: the node may be dead, and then the vhost goes with its directory.
            let _ = request(&self.management, &self.login, "DELETE", &path, &[], None);
        }
    }
}

/// A broker of these candidates, in order, with the time-outs of a test.
pub fn broker_of(urls: Vec<BrokerUrl>) -> Broker {
    Broker {
        name: "test".to_owned(),
        urls,
        random_order: false,
        exchange: None,
        management: None,
        ca_file: None,
        connect_timeout: Duration::from_secs(20),
        reply_timeout: Duration::from_secs(30),
    }
}

/// One node for all tests of this process that run at the same time.
fn lazy_server() -> Arc<RabbitServer> {
    static SERVER: Mutex<Weak<RabbitServer>> = Mutex::new(Weak::new());
    let mut held = SERVER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(server) = held.upgrade() {
        return server;
    }
    let server = Arc::new(RabbitServer::start());
    *held = Arc::downgrade(&server);
    server
}
