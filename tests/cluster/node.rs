//! A node of the cluster on its host: own address, own epmd, the usual ports; clients reach it on every address.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::hosts::{BUNNIES, address_of, on};
use crate::support::{Reply, recipe_with, request, spawn_kept, wait_until};

/// Of two nodes; a busy machine is slow.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// `rabbit@HOST`.
pub struct Node {
    host: &'static str,
    directory: PathBuf,
    node: Option<Child>,
}

impl Node {
    /// Started, not yet up: with these lines of `rabbitmq.conf`, and arguments of its virtual machine.
    pub fn new(host: &'static str, conf: &str) -> Node {
        let directory = PathBuf::from(format!("/run/rabbitmq-{host}"));
        let home = directory.join("home");
        std::fs::create_dir_all(&home).expect("directory");
        let discovery = match host == BUNNIES[0] {
            true => String::new(),
            false => recipe_with(
                "/etc/rabbitmq/rabbitmq.conf: the second node, in addition",
                &[("rabbit@bunny1-op", &format!("rabbit@{}", BUNNIES[0]))],
            ),
        };
        std::fs::write(directory.join("extra.conf"), format!("{conf}\n{discovery}")).expect("extra.conf");
        std::fs::write(home.join(".erlang.cookie"), "one-for-both").expect("cookie");
        let mut chmod = Command::new("chmod");
        assert!(
            chmod
                .arg("400")
                .arg(home.join(".erlang.cookie"))
                .status()
                .expect("chmod")
                .success()
        );
        Node {
            host,
            directory,
            node: None,
        }
    }

    /// Starts it for the first time or after a kill, and waits until it is a member.
    pub fn start(&mut self) {
        assert!(self.node.is_none(), "it runs");
        // Nothing lost: the first time there is none, and one that stays would look like a start.
        let _ = std::fs::remove_file(self.log());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/rabbitmq-node");
        let words = on(self.host);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(script).arg(&self.directory);
        command.args(["5672", "15672", "25672", "4369"]);
        command.env("PX_TEST_NODE", format!("rabbit@{}", self.host));
        command.env("PX_TEST_ADDRESS", address_of(self.host));
        // An address that is not there yet cannot be listened on by itself.
        command.env("PX_TEST_LISTEN", "0.0.0.0");
        // A silent peer is declared down after 6 to 10 s, not after a minute.
        command.env("PX_TEST_ERL", "-kernel net_ticktime 8");
        command.stdin(Stdio::null());
        let log = self.log();
        let node = self.node.insert(spawn_kept(command).expect("ip netns exec"));
        wait_until(START_DEADLINE, "RabbitMQ answers", || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = node.try_wait().expect("wait") {
                panic!("RabbitMQ ended with {status}: {said}");
            }
            said.contains("completed with")
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut node = self.node.take().expect("it runs");
        node.kill().expect("kill");
        node.wait().expect("wait");
    }

    /// `rabbitmqctl ARGS` on its host.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let words = on(self.host);
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(["bash", "-c", r#". "$0/env"; exec rabbitmqctl -q "$@""#]);
        let output = command
            .arg(&self.directory)
            .args(arguments)
            .output()
            .expect("rabbitmqctl");
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A call of its management API; `None` while it does not answer.
    pub fn api(&self, method: &str, path: &str, body: Option<&str>) -> Option<Reply> {
        let base = format!("http://{}:15672", address_of(self.host));
        let reply = request(&base, "admin:admin", method, path, &[], body).ok()?;
        (200..300).contains(&reply.status).then_some(reply)
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log/server.out")
    }
}
