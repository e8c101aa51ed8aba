//! A RabbitMQ node of our own: in a temporary directory, on free loopback ports, dead when this process is.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::http::{Reply, request};
use super::{free_port, spawn_kept, wait_until};

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// One directory below, named after the version.
const LIBRARIES: &str = "/usr/lib/rabbitmq/lib";
/// A node takes 2 to 3 s on an idle machine.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// Major and minor version of the RabbitMQ that is installed here, which all nodes of the tests are.
pub fn rabbitmq_version() -> (u32, u32) {
    let entries = std::fs::read_dir(LIBRARIES).expect(LIBRARIES);
    let names = entries.map(|entry| entry.expect(LIBRARIES).file_name().to_string_lossy().into_owned());
    let version = |name: String| {
        let (major, rest) = name.strip_prefix("rabbitmq_server-")?.split_once('.')?;
        Some((major.parse().ok()?, rest.split('.').next()?.parse().ok()?))
    };
    names.filter_map(version).max().expect("rabbitmq_server-VERSION")
}

/// Whether policies mirror classic queues: until RabbitMQ 4.
pub fn rabbitmq_mirrors() -> bool {
    rabbitmq_version() < (4, 0)
}

/// One private node.
pub struct RabbitServer {
    directory: tempfile::TempDir,
    ports: Ports,
    plugins: &'static str,
    node: Option<Child>,
}

#[derive(Clone, Copy)]
struct Ports {
    amqp: u16,
    management: u16,
    distribution: u16,
    epmd: u16,
}

impl RabbitServer {
    /// A node with the usual configuration, running.
    pub fn start() -> Self {
        Self::start_with("", "[].")
    }

    /// A node with more lines of `rabbitmq.conf`, and an `advanced.config`; for `consumer_timeout` you want both:
    /// `[{rabbit, [{channel_tick_interval, 1000}]}].`
    pub fn start_with(extra_conf: &str, advanced: &str) -> Self {
        Self::start_on(free_port(), extra_conf, advanced)
    }

    /// With the LDAP plugin, whose options a `rabbitmq.conf` may name only where it is enabled.
    pub fn start_with_ldap(extra_conf: &str, advanced: &str) -> Self {
        Self::start_of(free_port(), extra_conf, advanced, ",rabbitmq_auth_backend_ldap")
    }

    /// On this port for AMQP: for configurations that name none.
    pub fn start_on(amqp: u16, extra_conf: &str, advanced: &str) -> Self {
        Self::start_of(amqp, extra_conf, advanced, "")
    }

    fn start_of(amqp: u16, extra_conf: &str, advanced: &str, plugins: &'static str) -> Self {
        assert!(
            Path::new(SERVER).exists(),
            "rabbitmq-server is missing: run scripts/test, or apt-get install --no-install-recommends rabbitmq-server"
        );
        let directory = tempfile::Builder::new()
            .prefix("px-test-rabbitmq-")
            .tempdir()
            .expect("temporary directory");
        std::fs::write(directory.path().join("extra.conf"), format!("{extra_conf}\n")).expect("extra.conf");
        std::fs::write(directory.path().join("advanced.config"), advanced).expect("advanced.config");
        let mut server = RabbitServer {
            directory,
            ports: Ports {
                amqp,
                management: free_port(),
                distribution: free_port(),
                epmd: free_port(),
            },
            plugins,
            node: None,
        };
        server.start_again();
        server
    }

    /// Starts a stopped or killed node again, on the same ports and the same data.
    pub fn start_again(&mut self) {
        assert!(self.node.is_none(), "it runs");
        let ports = self.ports;
        let log = self.directory.path().join("log/server.out");
        // Nothing lost: the first time there is none, and one that stays would look like a start.
        let _ = std::fs::remove_file(&log);
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/rabbitmq-node");
        let mut command = Command::new(script);
        command.arg(self.directory.path()).stdin(Stdio::null());
        command.args([ports.amqp, ports.management, ports.distribution, ports.epmd].map(|port| port.to_string()));
        command.env("PX_TEST_PLUGINS", self.plugins);
        let node = self
            .node
            .insert(spawn_kept(command).expect("tests/support/rabbitmq-node"));
        wait_until(START_DEADLINE, "RabbitMQ answers", || {
            if let Some(status) = node.try_wait().expect("wait") {
                panic!(
                    "RabbitMQ ended with {status}: {}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                );
            }
            // Its ports are open earlier, but it hangs up on those who come then.
            std::fs::read_to_string(&log).is_ok_and(|log| log.contains("completed with"))
        });
    }

    /// RabbitMQ writes the definitions of exchanges, queues and bindings (not the messages) up to two seconds after it
    /// has answered: a kill within that time loses a durable queue with its confirmed messages. Waits for the writing.
    pub fn flush_definitions(&self) {
        self.ctl(&["eval", "mnesia:sync_log()."]);
    }

    /// SIGKILL: at once.
    pub fn kill(&mut self) {
        if let Some(mut node) = self.node.take() {
            node.kill().expect("kill");
            node.wait().expect("wait");
        }
    }

    /// SIGTERM: in good order, 5 to 7 s.
    pub fn stop(&mut self) {
        if let Some(mut node) = self.node.take() {
            kill_process(pid(&node), Signal::TERM).expect("kill -TERM");
            node.wait().expect("wait");
        }
    }

    /// SIGSTOP: connections stay open and nobody answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(pid(self.node.as_ref().expect("it runs")), signal).expect("signal");
    }

    /// No new connections; the old ones live on.
    pub fn suspend_listeners(&self) {
        self.ctl(&["suspend_listeners"]);
    }

    pub fn resume_listeners(&self) {
        self.ctl(&["resume_listeners"]);
    }

    /// `rabbitmqctl ARGS`; panics when it fails. About half a second.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("bash");
        command.args(["-c", r#". "$0/env"; exec rabbitmqctl -q "$@""#]);
        let output = command
            .arg(self.directory.path())
            .args(arguments)
            .output()
            .expect("rabbitmqctl");
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A call of the management API as administrator; `path` starts with `/api/`.
    #[track_caller]
    pub fn management(&self, method: &str, path: &str, body: Option<&str>) -> Reply {
        request(&self.management_url(), "admin:admin", method, path, &[], body).expect("management API")
    }

    pub fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.management)
    }

    /// Port of AMQP on 127.0.0.1.
    pub fn amqp_port(&self) -> u16 {
        self.ports.amqp
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for RabbitServer {
    fn drop(&mut self) {
        if let Some(mut node) = self.node.take() {
            // Nothing lost: the node is dead already when this fails.
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}
