//! Starting servers that die with this process.

use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

type Order = (Command, Sender<std::io::Result<Child>>);

/// Starts a command from a thread that lives as long as this process. A parent-death signal is sent when the *thread*
/// that started the child ends, and a test's thread ends with the test.
pub fn spawn_kept(command: Command) -> std::io::Result<Child> {
    static KEEPER: OnceLock<Sender<Order>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // Nothing lost: whoever ordered waits for the answer.
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, result) = channel();
    keeper.send((command, answer)).expect("the keeper lives");
    result.recv().expect("the keeper answers")
}
