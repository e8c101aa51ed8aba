//! Two nodes that have run become a cluster, as the old brokers did.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{free_port, recipe_with, spawn_kept, wait_until};
use crate::type_in;

const START_DEADLINE: Duration = Duration::from_secs(120);

/// A node NAME@localhost; dead when dropped.
struct Node {
    directory: tempfile::TempDir,
    node: Child,
}

impl Node {
    fn start(name: &str, epmd: u16, cookie: &Path) -> Node {
        let temporary = tempfile::Builder::new().prefix("px-test-rabbitmq-").tempdir();
        let directory = temporary.expect("temporary directory");
        let home = directory.path().join("home");
        std::fs::create_dir(&home).expect("home");
        let install = recipe_with(
            "on both hosts: the cookie of the cluster, from ./erlang.cookie",
            &[("/var/lib/rabbitmq", &home.display().to_string())],
        );
        type_in(cookie, &install);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/rabbitmq-node");
        let mut command = Command::new(script);
        command.arg(directory.path()).stdin(Stdio::null());
        let ports = [free_port(), free_port(), free_port(), epmd];
        command.args(ports.map(|port| port.to_string()));
        command.env("PX_TEST_NODE", format!("{name}@localhost"));
        let node = spawn_kept(command).expect("rabbitmq-node");
        Node { directory, node }
    }

    fn wait_ready(&mut self) {
        let log = self.directory.path().join("log/server.out");
        wait_until(START_DEADLINE, "RabbitMQ answers", || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let ended = self.node.try_wait().expect("wait");
            assert!(ended.is_none(), "RabbitMQ ended: {said}");
            said.contains("completed with")
        });
    }

    fn type_here(&self, commands: &str) -> String {
        type_in(self.directory.path(), &format!(". ./env\n{commands}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nothing lost: it is dead already when this fails.
        let _ = self.node.kill();
        let _ = self.node.wait();
    }
}

#[test]
fn a_node_that_has_run_joins_by_hand_and_forgets_what_it_had() {
    let cookie = tempfile::tempdir().expect("directory");
    std::fs::write(cookie.path().join("erlang.cookie"), "of-both").expect("cookie");
    let epmd = free_port();
    let mut nodes = ["bunny1", "bunny2"].map(|name| Node::start(name, epmd, cookie.path()));
    nodes.iter_mut().for_each(Node::wait_ready);
    nodes[1].type_here("rabbitmqctl -q add_user forgotten x");
    let join = recipe_with(
        "on bunny2-op: join the cluster",
        &[("rabbit@bunny1-op", "bunny1@localhost")],
    );
    let said = nodes[1].type_here(&join);
    let running = said.split("Running Nodes").nth(1).expect("running nodes");
    for name in ["bunny1@localhost", "bunny2@localhost"] {
        assert!(running.contains(name), "{said}");
    }
    let users = nodes[0].type_here("rabbitmqctl -q list_users");
    assert!(users.contains("admin") && !users.contains("forgotten"), "{users}");
}
