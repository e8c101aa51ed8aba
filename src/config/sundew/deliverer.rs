//! `tx/`, `type single-file` and `type script`: the options of a sender that delivers.

use super::lines::Line;
use super::reading::{Reading, text};
use super::settings::{SFTP_AMQP, UrlFiles};
use super::{Flow, masks, script_options, sender};
use crate::config::value::Value;

mod places;
mod server;

use server::{Protocol, Server};

/// Sundew waits so long for a connection, whatever less its `timeout` says.
const CONNECT_LEAST: i64 = 30;
/// What Sundew makes of delivered files without being told.
const CHMOD: i64 = 666;

/// How the products of a sender leave it.
#[derive(Debug, Clone, Copy)]
enum Way<'a> {
    /// By px itself.
    Server,
    /// By px itself, which then leaves a URL for an amqp sender.
    ServerAndUrl(&'a Line, &'a UrlFiles),
    /// By a script of the site.
    Script(&'a Line),
}

/// Reads the lines into the sender's table. What Sundew does without being told, and px does not, is written out.
pub(super) fn read(mut reading: Reading, name: &str) -> Flow {
    let line = reading.last("type");
    reading.put("type", line, text("deliver"));
    let way = way(&reading, line, name);
    let server = match way {
        Some(Way::Script(_)) => None,
        Some(Way::Server | Way::ServerAndUrl(..)) | None => Some(Server::read(&mut reading)),
    };
    let protocol = server.as_ref().map(|server| server.protocol);
    if let Some(server) = server {
        server.put(&mut reading);
    }
    transfer_mode(&mut reading, protocol);
    places(&mut reading, protocol);
    if let Some(protocol) = protocol.filter(|protocol| *protocol != Protocol::File) {
        remote(&mut reading, protocol);
    }
    if protocol.is_some() {
        let (makes, line) = reading.boolean("dir_mkdir", false);
        reading.put("mkdir", line, Value::Boolean(makes));
    }
    sender::batch(&mut reading);
    sender::duplicates(&mut reading, true, "2h");
    let (validation, line) = reading.boolean("validation", true);
    reading.put("validation", line, Value::Boolean(validation));
    sender::purge(&mut reading);
    sender::min_age(&mut reading);
    sender::order(&mut reading);
    scripts(&mut reading, way);
    if let Some(Way::ServerAndUrl(line, inside)) = way {
        url_files(&mut reading, line, inside);
    }
    sender::log(&mut reading);
    Flow {
        table: reading.finish(),
        broker: None,
    }
}

/// What hinders px from delivering for a sender with these lines: the words behind its type, and the section of
/// `px.toml` that would change it.
pub(super) fn hindrance(lines: &[Line], named: &str, has_host: bool, is_known: bool) -> Option<(String, &'static str)> {
    const HOST: &str = "hook_host in [sundew]";
    if named == "script" {
        match lines.iter().rev().find(|line| line.keyword() == "send_script") {
            None => return Some(("without send_script".to_string(), "")),
            Some(line) if line.value() == SFTP_AMQP && !is_known => {
                return Some((format!("with {SFTP_AMQP}"), "[sftp_amqp.NAME]"));
            }
            Some(line) if line.value() != SFTP_AMQP && !has_host => {
                return Some(("with send_script".to_string(), HOST));
            }
            Some(_) => {}
        }
    }
    match places::scripted(lines) {
        places::Naming::Script(_) if has_host => None,
        places::Naming::Plain => None,
        places::Naming::Script(_) => Some(("with DESTFNSCRIPT".to_string(), HOST)),
        places::Naming::Mixed => Some(("with DESTFNSCRIPT among other names".to_string(), "")),
    }
}

fn way<'a>(reading: &Reading<'a>, kind: Option<&'a Line>, name: &str) -> Option<Way<'a>> {
    if kind.is_none_or(|line| line.value() != "script") {
        return Some(Way::Server);
    }
    let line = reading.last("send_script")?;
    match line.value() {
        SFTP_AMQP => Some(Way::ServerAndUrl(line, reading.settings.url_files(name)?)),
        _ => Some(Way::Script(line)),
    }
}

/// Options of FTP alone.
fn transfer_mode(reading: &mut Reading, protocol: Option<Protocol>) {
    if protocol != Some(Protocol::Ftp) {
        return;
    }
    if let Some(line) = reading.last("ftp_mode") {
        match line.value() {
            mode @ ("active" | "passive") => reading.put("ftp_mode", Some(line), text(mode)),
            _ => reading.refuse(line, "accepted: passive, active"),
        }
    }
    if let (false, Some(line)) = reading.boolean("binary", true) {
        reading.put("ascii", Some(line), Value::Boolean(true));
    }
}

/// `directory`, `filename` and `masks`: what the first accepting line has is the unit's, and others have their own.
fn places(reading: &mut Reading, protocol: Option<Protocol>) {
    let places = places::read(reading, protocol);
    let plain = places.first().map(|(_, place)| place.clone());
    if let Some(plain) = &plain {
        reading.put("directory", plain.directory_line, text(&plain.directory));
        if let Some(line) = plain.filename_line {
            reading.put("filename", Some(line), text(&plain.filename));
        }
    }
    masks::put(reading, true, |reading, line| {
        let mut more = Vec::new();
        let own = places.iter().find(|(other, _)| std::ptr::eq(*other, line));
        let (Some((_, own)), Some(plain)) = (own, &plain) else {
            return more;
        };
        if own.directory != plain.directory {
            let line = own.directory_line.unwrap_or(line);
            more.push(reading.entry("directory", Some(line), text(&own.directory)));
        }
        if own.filename != plain.filename {
            let line = own.filename_line.unwrap_or(line);
            more.push(reading.entry("filename", Some(line), text(&own.filename)));
        }
        more
    });
}

/// What is said of servers alone.
fn remote(reading: &mut Reading, protocol: Protocol) {
    if let Some(line) = reading.last("lock") {
        let lock = match line.value() {
            suffix if suffix.starts_with('.') => suffix,
            "umask" => "umask",
            other => {
                if other != "None" {
                    reading.warn(
                        line,
                        "no such method, so none is used, as under Sundew; accepted: .SUFFIX, umask, None",
                    );
                }
                "none"
            }
        };
        reading.put("lock", Some(line), text(lock));
    }
    chmod(reading);
    if let Some((kilobytes, line)) = reading.number("kbytes_ps").filter(|(kilobytes, _)| *kilobytes > 0) {
        reading.put("bandwidth", Some(line), text(&format!("{kilobytes}KiB")));
    }
    let (seconds, line) = reading.number("timeout").unzip();
    let seconds = seconds.unwrap_or_default().max(CONNECT_LEAST);
    reading.put("connect_timeout", line, text(&format!("{seconds}s")));
    if let Some((seconds, line)) = reading.number("timeout_send").filter(|(seconds, _)| *seconds > 0) {
        reading.put("read_timeout", Some(line), text(&format!("{seconds}s")));
    }
    if let (Protocol::Sftp, Some(line)) = (protocol, reading.last("ssh_keyfile")) {
        match line.value().starts_with('/') {
            true => reading.put("key_file", Some(line), text(line.value())),
            false => reading.refuse(line, "accepted: an absolute path"),
        }
    }
}

/// Decimal digits that mean octal ones.
fn chmod(reading: &mut Reading) {
    let (mode, line) = reading.number("chmod").unzip();
    let mode = mode.unwrap_or(CHMOD);
    let digits = format!("{mode:03}");
    match digits.len() == 3 && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) {
        true => reading.put("chmod", line, text(&digits)),
        false => {
            if let Some(line) = line {
                reading.refuse(line, "accepted: three digits from 0 to 7, such as 664");
            }
        }
    }
}

/// The hooks, and what the site's programs are told of the unit.
fn scripts(reading: &mut Reading, way: Option<Way<'_>>) {
    reading.hook("fx_script");
    match places::scripted(reading.lines) {
        places::Naming::Script((line, name)) => reading.script("destfn_script", line, name),
        places::Naming::Plain | places::Naming::Mixed => reading.hook("destfn_script"),
    }
    if let Some(Way::Script(line)) = way {
        reading.script("send_script", line, line.value());
        if let Some((seconds, line)) = reading.number("timeout_send").filter(|(seconds, _)| *seconds > 0) {
            reading.put("script_timeout", Some(line), text(&format!("{seconds}s")));
        }
    }
    script_options::put(reading);
}

/// The two-step form: a file with the URL of what was delivered, for an amqp sender.
fn url_files(reading: &mut Reading, line: &Line, inside: &UrlFiles) {
    let mut entries = vec![
        reading.entry("queue", Some(line), text(&inside.queue)),
        reading.entry("url", Some(line), text(&inside.url)),
    ];
    if let Some(root) = &inside.root {
        entries.push(reading.entry("root", Some(line), text(root)));
    }
    let place = reading.place(Some(line));
    reading.put(
        "url_files",
        Some(line),
        Value::List(vec![(place, Value::Table(entries))]),
    );
}

#[cfg(test)]
mod tests;
