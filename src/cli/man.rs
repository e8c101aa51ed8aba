//! `px man DIR`: the manual pages. px(1) comes from the command line's own definition, every other page from the `//!`
//! manual of the source file that reads what it describes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Arg, Command, CommandFactory};

mod roff;

/// A page that is written in a source file.
struct Page {
    name: &'static str,
    section: u8,
    /// What it describes, after the name in the NAME section.
    about: &'static str,
    /// Each begins with a part of it, which stands under this heading.
    sources: &'static [(&'static str, &'static str)],
}

/// The site file and every component.
const PAGES: [Page; 9] = [
    Page {
        name: "px.toml",
        section: 5,
        about: "the site file of px, its secrets and its places",
        sources: &[("", include_str!("../config/site.rs"))],
    },
    Page {
        name: "px-broker.toml",
        section: 5,
        about: "what a broker is to have: users, rights, exchanges, policies",
        sources: &[("", include_str!("../config/administration.rs"))],
    },
    Page {
        name: "px-watcher",
        section: 5,
        about: "a unit of watch/: announces the files of a tree",
        sources: &[("", include_str!("../flow/watcher.rs"))],
    },
    Page {
        name: "px-dispatcher",
        section: 5,
        about: "a unit of dispatch/: lets the first of redundant announcements through",
        sources: &[("", include_str!("../flow/dispatcher.rs"))],
    },
    Page {
        name: "px-sender",
        section: 5,
        about: "a unit of tx/ with type = \"amqp\": publishes queued files",
        sources: &[("", include_str!("../flow/sender.rs"))],
    },
    Page {
        name: "px-deliverer",
        section: 5,
        about: "a unit of tx/ with type = \"deliver\": puts queued files on a server, and announces them",
        sources: &[
            ("", include_str!("../flow/deliverer.rs")),
            ("Announcements", include_str!("../flow/announcer.rs")),
        ],
    },
    Page {
        name: "px-receiver",
        section: 5,
        about: "a unit of rx/ with type = \"amqp\": makes products of messages",
        sources: &[("", include_str!("../flow/receiver.rs"))],
    },
    Page {
        name: "px-dropped",
        section: 5,
        about: "a unit of rx/ with type = \"single-file\": takes files that are dropped into its queue",
        sources: &[("", include_str!("../flow/dropped.rs"))],
    },
    Page {
        name: "px-puller",
        section: 5,
        about: "a unit of rx/ with type = \"pull\": fetches announced products",
        sources: &[("", include_str!("../flow/puller.rs"))],
    },
];

/// The end of px(1), in the dialect of the manuals.
const AFTER_COMMANDS: &str = "\
# Units

One file under `/etc/px` is one unit: one process, one log, one line of `px status`. The directory says which component
it is: `watch/`, `dispatch/`, `tx/`, `rx/`. A unit is named `rx/NAME`, or `NAME` where only one directory has it; `rx-NAME`
is the same unit, for systemd's `px@rx-NAME`.

# Status

`px status` shows the state of each unit, what it has counted since its start and what it has in hand now. What is 0 is
left out; `--json` has everything. Under a dispatcher there is a line for each source that races with others, and one for
each two that disagree, see px-dispatcher(5). A paused unit is running, exit code 0.

The first word is `running`; `standby`, of a dispatcher that stands by; `starting`, until it has begun its work for the
first time; or what keeps it from its work:

| state | meaning |
| --- | --- |
| `paused: REASON` | it waits for an operator, and goes on by itself when that is mended |
| `waiting for broker NAME since TIME: REASON` | a connection does not stand; it tries again by itself |
| `impaired: REASON` | it may not bind its queue, and gets only what somebody else has bound; it asks again within 5 minutes. `bind = []` is for a unit that leaves it to others |

For alarms look at `state` of `--json`; in `links` each connection has `connected`, `since` and, while it does not stand,
its `error`. `warnings` are what the broker has refused: `foreign`, used as it is, for the user may not make it; `differs`,
used as it is, with other options than the file has; `unbound`.

## Since the start

| name | counts |
| --- | --- |
| `announced` | files of a tree, or messages about delivered products, that were announced |
| `forwarded` | announcements that were let through |
| `ignored` | announcements of what another source has announced first |
| `fetched`, `from_alternates` | products that were fetched; of these, from another source than the announced one |
| `delivered` | products that were sent or delivered |
| `suppressed` | files and products whose content came before |
| `rejected` | what masks or a script do not want |
| `invalid` | names without a priority or a stamp, with `validation` |
| `purged` | files that were too old |
| `ingested`, `queued` | products that came into the database; links to them in queues of clients |
| `skipped`, `superseded` | messages with nothing to do; products of which there is a newer version |
| `parked` | attempts that failed and are made again later |
| `failed` | what was given up. Messages: `px failed`; files of `tx/`: in `txq/NAME/PROBLEM`; of `rx/`: where they were |
| `quarantined` | products whose bytes were not the announced ones |
| `unroutable` | messages that the broker gave back, for no queue is bound for them |
| `unnameable` | announcements that were left out, for their format has no way to write the name |
| `reconnects` | connections to a broker that were lost and made again |

## Now

| name | how many |
| --- | --- |
| `queued_files` | files in the queue of the unit |
| `connections` | connections to the destination |
| `outbox` | announcements that wait for the broker |
| `in_hand` | messages that are being worked on |
| `parked_here`, `failed_kept` | messages in the unit's own spool that wait for their next attempt; that `px failed` lists |
| `left_in_rxq` | files in a receiver's queue that it cannot finish |
| `unremoved`, `not_set_aside` | files that could not be removed; could not be moved to `PROBLEM` |

## Latency

| name | meaning |
| --- | --- |
| `p50`, `p99` | seconds from the announcement, or the file's time, in which half, and 99 of 100, were done |

# Reaper

`px reap` deletes the queues that `[reaper]` of px.toml(5) calls abandoned. It prints a line for each queue that it has
deleted, or that it keeps for a reason worth knowing, then two lines, in UTC, with the names of all queues of the virtual
hosts that it has looked at and of those that are deleted, each as Python 2 writes a list. Failures go to standard error,
and one failing queue does not stop the others. With `--quiet` it prints only lines of queues that were deleted, and
failures.

`--dry-run` changes nothing: it deletes no queue, records no sighting and takes no lock. It shows what a run would do at
this moment, so a quorum queue waits for its grace until real runs have seen it. Two runs never overlap: the second says
so and ends with 1. A queue that gets a consumer meanwhile is kept, and the report says so.

With `--spill` the messages of a classic queue are in a file, synced, before they leave the queue, and the queue is deleted
only if it is empty and nobody consumes from it, and after the broker's figures have said that nobody has a message of it
in hand. These come every 5 s, so it takes up to 15 s a queue, and a minute where somebody has one. A queue that is fed
faster than it is spilled, that gets a consumer meanwhile, or whose messages somebody keeps in hand, is kept; the report,
with 1, names the file that holds what was taken. So it is on SIGINT and SIGTERM, after the batch at hand. A quorum queue
is kept: what is read and given back may be dropped by its delivery limit, and dead-lettered messages that it keeps
cannot be taken out. So is an `auto_delete` one: reading it out is consuming, and would delete it, with whatever has
come meanwhile. Files of the queue in the same directory that have no end, for a run was interrupted, are named too.
What is taken from the queue by basic.get in the last moment, and is not acknowledged, is lost with its client.

# Old names

A link to `px` of one of these names is Sundew's program of that name, with its texts and exit codes:

| name | is |
| --- | --- |
| `pxSender` NAME COMMAND | `start`, `stop`, `status`, `restart` or `reload` of `tx/NAME`; `-l LEVEL` for its log |
| `pxReceiver` NAME COMMAND | the same of `rx/NAME` |
| `pxChecker` | `px revive`, which tells in `pxChecker.log` what it has started |
| `queue_manager` | `px reap`: the deleted names, then the two lines `queues` and `deleted`; also `queue_manager.py` |

`status` is always 0, `reload` always 2, and `restart` starts only what ran or has died. A start that fails is told on
standard error, with 1; a unit that is not ready within 5 s, with 0, for it goes on trying. Of a unit that is left to
Sundew only `status` is answered. `txq/NAME/.lock` and `rxq/NAME/.lock` hold the pid of a running sender or receiver;
where a foreign process holds it, the unit does not start.

As root below a `PX_ROOT` units run as root; without it they run as `pds`, or where there is no such account as `px`.

# Exit status

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | refused or failed; the reason is on standard error |
| 2 | usage |
| 3 | not running |

# Environment

| name | meaning |
| --- | --- |
| `PX_ROOT` | a directory that holds all places, see px.toml(5); `PXROOT` is the older name |
| `CREDENTIALS_DIRECTORY` | passwords in files named BROKER.USER, as systemd provides them |

# Signals

| name | meaning |
| --- | --- |
| `SIGTERM`, `SIGINT` | a unit takes nothing new, finishes what is in hand within 20 s, and ends |
| `SIGHUP` | a unit reads its configuration anew; a bad one is refused and the old one kept |
";

/// Writes every page into a directory, as `NAME.SECTION`.
pub fn man(directory: &Path) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let commands = super::Arguments::command();
    write(directory, "px", 1, &commands_page(commands))?;
    for page in &PAGES {
        write(directory, page.name, page.section, &page.render())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write(directory: &Path, name: &str, section: u8, text: &str) -> anyhow::Result<()> {
    let path: PathBuf = directory.join(format!("{name}.{section}"));
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

impl Page {
    fn manual(&self) -> String {
        let part = |(heading, source): &(&str, &str)| match *heading {
            "" => manual(source),
            heading => format!("## {heading}\n\n{}", manual(source)),
        };
        let parts: Vec<String> = self.sources.iter().map(part).collect();
        parts.join("\n")
    }

    fn render(&self) -> String {
        let mut page = head(self.name, self.section, self.about);
        page.push_str(".SH DESCRIPTION\n");
        page.push_str(&roff::from_markdown(&self.manual()));
        page.push_str(&see_also(self.name));
        page
    }
}

fn head(name: &str, section: u8, about: &str) -> String {
    format!(
        ".TH {} {section} \"\" \"px {}\"\n.SH NAME\n{} \\- {}\n",
        roff::escape(name),
        env!("CARGO_PKG_VERSION"),
        roff::escape(name),
        roff::escape(about),
    )
}

fn see_also(own: &str) -> String {
    let all = std::iter::once(("px", 1)).chain(PAGES.iter().map(|page| (page.name, page.section)));
    let others: Vec<String> = all
        .filter(|(name, _)| *name != own)
        .map(|(name, section)| format!("\\fB{}\\fR({section})", roff::escape(name)))
        .collect();
    format!(".SH SEE ALSO\n{}\n", others.join(", "))
}

/// The `//!` lines of a source file.
fn manual(source: &str) -> String {
    source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect()
}

/// px(1): what it is, then every command with its own usage and options.
fn commands_page(mut commands: Command) -> String {
    commands.build();
    let about = commands.get_about().map(ToString::to_string).unwrap_or_default();
    let mut page = head("px", 1, &about);
    page.push_str(".SH SYNOPSIS\n\\fBpx\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n.SH COMMANDS\n");
    push_commands(&mut page, &commands);
    page.push_str(&roff::from_markdown(AFTER_COMMANDS));
    page.push_str(&see_also("px"));
    page
}

/// Every visible command below `parent` as a subsection, depth first.
fn push_commands(page: &mut String, parent: &Command) {
    let is_shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for command in parent.get_subcommands().filter(is_shown) {
        if command.has_subcommands() {
            push_commands(page, command);
            continue;
        }
        let name = command.get_bin_name().unwrap_or(command.get_name());
        let usage = command.clone().render_usage().to_string();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        page.push_str(&format!(
            ".SS {}\n\\fB{}\\fR\n.PP\n{}.\n",
            roff::escape(name),
            roff::escape(usage.trim_start_matches("Usage: ")),
            roff::escape(&about)
        ));
        let arguments = command.get_arguments();
        for argument in arguments.filter(|argument| !argument.is_hide_set() && argument.get_id() != "help") {
            push_argument(page, argument);
        }
        if let Some(manual) = command.get_after_long_help() {
            page.push_str(&roff::from_markdown(&manual.to_string()));
        }
    }
}

fn push_argument(page: &mut String, argument: &Arg) {
    let mut text = argument.get_help().map(ToString::to_string).unwrap_or_default();
    if argument.get_action().takes_values() {
        let words = argument.get_possible_values();
        let words: Vec<&str> = words.iter().map(|word| word.get_name()).collect();
        if !words.is_empty() {
            text.push_str(&format!(": {}", words.join(", ")));
        }
        for default in argument.get_default_values() {
            text.push_str(&format!(" [default: {}]", default.display()));
        }
    }
    let name = roff::escape(&argument.to_string());
    page.push_str(&format!(".TP\n\\fB{name}\\fR\n{}\n", roff::escape(&text)));
}
