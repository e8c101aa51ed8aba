use std::path::PathBuf;

use crate::config::sundew::keywords::{Kind, Meaning};
use crate::config::sundew::tests::{Samples, data};
use crate::config::sundew::{convert, keywords, service};
use crate::config::{Service, UnitDir, UnitName};

const LOGIN: &str = "type single-file\nprotocol ftp\nhost h\nuser u\npassword canary\n";

/// A root with the samples of deliverers, and their names.
fn samples() -> (Samples, Vec<UnitName>) {
    let samples = Samples::new();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(data().join("deliver")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        let dir = if name == "px.toml" { "" } else { "tx" };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") if dir == "tx" => continue,
            Some("conf") => {
                names.push(UnitName::new(UnitDir::Tx, path.file_stem().unwrap().to_str().unwrap()).unwrap())
            }
            _ => {}
        }
        std::fs::copy(&path, samples.places.etc.join(dir).join(name)).unwrap();
    }
    names.retain(|name| name.name != "bad");
    assert!(names.len() >= 5, "{names:?}");
    (samples, names)
}

fn sample(name: &str, extension: &str) -> String {
    let path = data().join("deliver").join(format!("{name}.{extension}"));
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What a sender with these lines, and an `accept` behind them, is in TOML.
fn told(lines: &str) -> (String, Vec<String>) {
    Samples::new().told(UnitDir::Tx, &format!("{LOGIN}{lines}accept .*\n"))
}

#[test]
fn samples_are_converted_as_they_are_written_down() {
    let (samples, names) = samples();
    let etc = format!("{}/", samples.places.etc.display());
    for name in &names {
        let path = samples.places.etc.join(format!("tx/{}.conf", name.name));
        assert_eq!(service(&samples.places, UnitDir::Tx, &path), Service::Served, "{name}");
        let (flow, errors) = samples.read(name);
        let prefix = format!("{etc}tx/{}.conf:", name.name);
        let errors: String = errors
            .iter()
            .map(|error| error.to_string().replace(&prefix, "") + "\n")
            .collect();
        assert_eq!(errors, sample(&name.name, "findings"), "{name}");
        let conversion = convert(&samples.places, name, flow.unwrap(), &[]).unwrap();
        let unit = conversion.unit.replace(&etc, "ETC/");
        assert_eq!(unit, sample(&name.name, "toml"), "{name}");
        assert!(!conversion.shown.contains("canary"), "{name}: {}", conversion.shown);
        assert_eq!(conversion.is_private(), conversion.unit.contains("canary"), "{name}");
        if let Some((file, password)) = conversion.password {
            assert_eq!(file, PathBuf::from(format!("{etc}tx/{}.password", name.name)));
            assert_eq!(password.expose(), "canary");
        }
    }
}

#[test]
fn the_bad_sample_is_refused_with_all_its_findings() {
    let (_, errors) = Samples::new().told(UnitDir::Tx, &sample("bad", "conf"));
    let errors: String = errors
        .iter()
        .map(|error| error.replace("tx/x.conf:", "") + "\n")
        .collect();
    assert_eq!(errors, sample("bad", "findings"));
}

#[test]
fn no_keyword_of_senders_is_missing_in_the_sample_of_all() {
    let text = sample("every_delivery", "conf");
    for keyword in keywords::all_of(Kind::Deliverer) {
        let is_there = text.lines().any(|line| line.split(' ').next() == Some(keyword.name));
        assert!(is_there, "{}", keyword.name);
        assert_ne!(keyword.meaning(Kind::Deliverer), Meaning::Foreign);
    }
}

#[test]
fn what_sundew_does_without_being_told_is_written_out() {
    let (table, errors) = told("");
    assert_eq!(errors, [""; 0]);
    let expected = r#"type = "deliver"
destination = "ftp://u@h"
password = "canary"
directory = ""
masks = [
    { accept = '.*' },
    { reject = '(?s).*' },
]
chmod = "666"
connect_timeout = "30s"
mkdir = false
duplicates = { entries = 125000, keep = "2h" }
validation = true
log = { keep = 5 }
"#;
    assert_eq!(table, expected);
}

/// A line, and the options that it becomes.
const BECOMES: &[(&str, &str)] = &[
    ("protocol sftp\nport 2222", "destination = \"sftp://u@h:2222\""),
    ("host [::1]", "destination = \"ftp://u@[::1]\""),
    ("user a.b@c", "destination = \"ftp://a.b@c@h\""),
    (
        "protocol file\ndirectory /a//b/",
        "destination = \"file:\"\ndirectory = \"/a/b\"",
    ),
    (
        "destination ftp://v:canary@i//abs/dir WHATFN",
        "destination = \"ftp://v@i\"",
    ),
    (
        "destination ftp://v:canary@i//abs/dir HEADFN",
        "directory = \"/abs/dir\"\nfilename = \"HEADFN\"",
    ),
    ("destination ftp://v:canary@i/rel", "directory = \"rel\""),
    ("destination ftp://v:canary@i", "directory = \"\""),
    (
        "destination file://localhost/rel",
        "destination = \"file:\"\ndirectory = \"/rel\"",
    ),
    ("directory /data/dd/", "directory = \"data/dd\""),
    ("directory //data/dd", "directory = \"/data/dd\""),
    ("directory .", "directory = \"\""),
    ("directory /a$b/{CCCC}", "directory = \"a$b/{CCCC}\""),
    (
        "dir_pattern on\ndirectory /a/${0}x${T1}",
        "directory = \"/a/${0}x${T1}\"",
    ),
    ("dir_pattern on\ndirectory /{CCCC}$x", "directory = \"/${CCCC}x\""),
    ("dir_pattern on", "directory = \"\""),
    ("filename SENDER:TIME", "filename = \"SENDER:TIME\""),
    ("lock .part", "lock = \".part\""),
    ("lock umask", "lock = \"umask\""),
    ("lock None", "lock = \"none\""),
    ("chmod 0664", "chmod = \"664\""),
    ("chmod 5", "chmod = \"005\""),
    ("kbytes_ps 10", "bandwidth = \"10KiB\""),
    ("timeout 31", "connect_timeout = \"31s\""),
    ("timeout 10", "connect_timeout = \"30s\""),
    ("timeout_send 90", "read_timeout = \"90s\""),
    ("ftp_mode active", "ftp_mode = \"active\""),
    ("binary False", "ascii = true"),
    ("dir_mkdir True", "mkdir = true"),
    ("cache_size 9", "duplicates = { entries = 9, keep = \"2h\" }"),
    ("sorter None", "order = \"mtime\""),
    ("mtime 5", "min_age = \"5s\""),
    ("batch 7", "batch = 7"),
    ("purge 5H,3", "purge = [{ priority = [3], after = \"5h\" }]"),
    ("logrotate 12", "log = { keep = 12 }"),
];

#[test]
fn lines_become_options() {
    for (line, expected) in BECOMES {
        let (table, errors) = told(&format!("{line}\n"));
        assert!(errors.is_empty(), "{line}: {errors:?}");
        assert!(table.contains(&format!("\n{expected}\n")), "{line}\n{table}");
    }
    for (line, absent) in [
        ("kbytes_ps -1", "bandwidth"),
        ("timeout_send 0", "read_timeout"),
        ("binary True", "ascii"),
        ("noduplicates False", "duplicates"),
        ("protocol sftp\nftp_mode active\nbinary False", "ascii"),
        (
            "protocol file\ndirectory /a\nchmod 644\nlock umask\nkbytes_ps 3",
            "chmod",
        ),
        ("send_script x.py", "send_script"),
        ("exchange_name e", "exchange"),
        ("patternMatching False", "patternMatching"),
    ] {
        let (table, errors) = told(&format!("{line}\n"));
        assert!(
            errors.is_empty() && !table.contains(absent),
            "{line}\n{table}{errors:?}"
        );
    }
}

#[test]
fn what_may_surprise_is_told() {
    for (line, warning) in [
        (
            "directory data",
            "directory = \"data\": warning: Sundew drops the first character, 'd', whatever it is",
        ),
        (
            "lock flock",
            "lock = \"flock\": warning: no such method, so none is used",
        ),
        (
            "port 2121",
            "port = \"2121\": warning: Sundew's FTP goes to 21 whatever it says; px uses it",
        ),
        (
            "destination sftp://u:canary@h/x",
            "destination = ***: warning: Sundew takes neither user nor host",
        ),
        (
            "protocol file",
            "accept = \".*\": warning: files go into the root directory itself",
        ),
        (
            "dir_pattern on\ndirectory /${YYYY}",
            "directory = \"/${YYYY}\": warning: Sundew's directories know no such name",
        ),
        (
            "sorter StandardSorter",
            "sorter = \"StandardSorter\": warning: px sorts by",
        ),
        (
            "routemask False",
            "routemask = \"False\": warning: a keyword of receivers",
        ),
    ] {
        let (_, errors) = told(&format!("{line}\n"));
        assert!(errors.len() == 1 && errors[0].contains(warning), "{line}: {errors:?}");
    }
    let (_, errors) = Samples::new().told(UnitDir::Tx, LOGIN);
    assert!(
        errors.len() == 1 && errors[0].contains("every file is erased and none delivered"),
        "{errors:?}"
    );
}

#[test]
fn what_would_erase_or_go_astray_is_refused() {
    for (line, why) in [
        ("accept a # note", "erases every file that matches; accepted: WHATFN"),
        (
            "accept a ALL",
            "no file name option, and Sundew erases every file that matches; accepted: WHATFN",
        ),
        (
            "filename ALL",
            "no file name option, and Sundew erases every file that matches; accepted: WHATFN",
        ),
        (
            "directory /${0}",
            "without dir_pattern Sundew delivers into a directory of this very name",
        ),
        ("directory /a/../b", "it leads upwards"),
        ("protocol http", "accepted: ftp, sftp, file"),
        ("destination ftp://u@h/", "accepted: ftp://USER:PASSWORD@HOST/PATH"),
        ("destination am://h:1", "accepted: ftp://USER:PASSWORD@HOST/PATH"),
        ("host h/x", "accepted: HOST or HOST:PORT"),
        ("host h:1\nport 2", "host says port 1; say it once"),
        ("port 0", "accepted: a whole number from 1 to 65535"),
        ("user a\u{1}", "accepted: the user on the server"),
        ("user a:b", "accepted: the user on the server"),
        ("user a%20b", "accepted: the user on the server"),
        ("chmod 888", "accepted: three digits from 0 to 7"),
        ("chmod 1777", "accepted: three digits from 0 to 7"),
        ("ftp_mode Active", "accepted: passive, active"),
        ("protocol sftp\nssh_keyfile id", "accepted: an absolute path"),
        (
            "fx_script x.py",
            "px runs no scripts in a delivering sender but by hook_host",
        ),
        ("mtime -1", "accepted: a whole number of seconds"),
    ] {
        let (table, errors) = told(&format!("{line}\n"));
        let refused: Vec<&String> = errors.iter().filter(|error| !error.contains(": warning: ")).collect();
        assert!(refused.len() == 1 && refused[0].contains(why), "{line}: {errors:?}");
        assert!(!errors.concat().contains("canary"), "{line}: {errors:?}");
        assert!(table.starts_with("type = \"deliver\"\n"), "{table}");
    }
    for (text, missing) in [
        (
            "type single-file\naccept .*\n",
            "protocol: missing; accepted: ftp, sftp, file",
        ),
        ("protocol ftp\naccept .*\n", "user: missing"),
        ("protocol sftp\nuser u\naccept .*\n", "ssh_keyfile: missing"),
    ] {
        let (_, errors) = Samples::new().told(UnitDir::Tx, text);
        assert!(errors.len() == 1 && errors[0].contains(missing), "{text}: {errors:?}");
    }
}

#[test]
fn px_conf_says_nothing_of_places_below_it() {
    let samples = Samples::new();
    samples.write("px.conf", "directory /site\nfilename NONE\naccept site.*\nchmod 640\n");
    let (table, errors) = samples.told(UnitDir::Tx, &format!("{LOGIN}accept own.*\n"));
    assert_eq!(errors, [""; 0]);
    let expected = "directory = \"site\"\nfilename = \"NONE\"\nmasks = [\n    { accept = 'site.*' },\n    \
                    { accept = 'own.*', directory = \"\", filename = \"WHATFN\" },\n";
    assert!(table.contains(expected) && table.contains("chmod = \"640\""), "{table}");
}

const HOST: &str = "[sundew]\nhook_host = \"/h\"\n";
const INSIDE: &str = "[sftp_amqp.x]\nqueue = \"q\"\nurl = \"http://h/\"\n";
const WITH_HOST: &str = "px runs it with hook_host in [sundew] of px.toml";
const WITH_INSIDE: &str = "px runs it with [sftp_amqp.x] of px.toml";

/// What the site says, a sender's lines, and whose it is with what would change that.
const WHOSE: &[(&str, &str, &str, &str)] = &[
    ("", "host h\n", "", ""),
    ("", "type single-file\n", "", ""),
    (
        "[sundew]\nkeep = [\"tx/x\"]\n",
        "type single-file\n",
        "single-file in keep of px.toml",
        "",
    ),
    (
        "[sundew]\nkeep = [\"tx/x\"]\n",
        "type amqp\n",
        "amqp in keep of px.toml",
        "",
    ),
    ("[sundew]\nkeep = [\"rx/x\"]\n", "type single-file\n", "", ""),
    ("", "fx_script f.py\n", "single-file with fx_script", WITH_HOST),
    (HOST, "fx_script f.py\ndestfn_script d.py\n", "", ""),
    ("", "send_script s.py\n", "", ""),
    ("", "type script\n", "script without send_script", ""),
    (HOST, "type script\n", "script without send_script", ""),
    (
        "",
        "type script\nsend_script s.py\n",
        "script with send_script",
        WITH_HOST,
    ),
    (HOST, "type script\nsend_script s.py\n", "", ""),
    (
        "",
        "type script\nsend_script sftp_amqp.py\n",
        "script with sftp_amqp.py",
        WITH_INSIDE,
    ),
    (
        HOST,
        "type script\nsend_script sftp_amqp.py\n",
        "script with sftp_amqp.py",
        WITH_INSIDE,
    ),
    (INSIDE, "type script\nsend_script sftp_amqp.py\n", "", ""),
    (
        "",
        "accept a DESTFNSCRIPT=s.py\n",
        "single-file with DESTFNSCRIPT",
        WITH_HOST,
    ),
    (HOST, "accept a DESTFNSCRIPT=s.py\n", "", ""),
    (
        HOST,
        "accept a DESTFNSCRIPT=s.py\naccept b\n",
        "single-file with DESTFNSCRIPT among other names",
        "",
    ),
    ("", "type am\n", "am", ""),
];

#[test]
fn a_sender_is_left_to_sundew_for_its_scripts_alone() {
    for (site, lines, left, way_out) in WHOSE {
        let samples = Samples::new();
        samples.write("px.toml", site);
        samples.write("tx/x.conf", lines);
        let path = samples.places.etc.join("tx/x.conf");
        let expected = match *left {
            "" => Service::Served,
            left => Service::LeftToSundew(left.to_string()),
        };
        assert_eq!(service(&samples.places, UnitDir::Tx, &path), expected, "{site}{lines}");
        let way = crate::config::sundew::way_out(&samples.places, UnitDir::Tx, &path);
        assert_eq!(way.unwrap_or_default(), *way_out, "{site}{lines}");
    }
}

#[test]
fn a_receivers_scripts_are_run_where_the_site_says_how() {
    let samples = Samples::new();
    samples.write("px.toml", "[sundew]\nhook_host = \"/h\"\n");
    let text = "type single-file\nfx_script f.py\nlx_script l.py\npull_script p.py\nvip 10.0.0.1\npull_sleep 30\nhost h\n\
                password canary\ndirectory a\nget one.*\nget two.*\ndirectory b\ndelete True\nroutemask False\n";
    let (table, errors) = samples.told(UnitDir::Rx, text);
    assert_eq!(errors, [""; 0]);
    let etc = samples.places.etc.display().to_string();
    let expected = r#"type = "single-file"
route = "masks"
fx_script = ["/h", "--options", "ETC/scripts/f.py"]
lx_script = ["/h", "--options", "ETC/scripts/l.py"]
pull_script = ["/h", "--options", "ETC/scripts/p.py"]
pull_every = "30s"
vip = "10.0.0.1"
script_options = { host = "h", passwd = "canary", pull_sleep = 30, delete = true, pulls = [["a", "one.*", "two.*"], ["b"]] }
log = { keep = 5 }
"#;
    assert_eq!(table.replace(&etc, "ETC"), expected);
    let path = samples.places.etc.join("rx/x.conf");
    assert_eq!(service(&samples.places, UnitDir::Rx, &path), Service::Served);
    samples.write("rx/x.conf", "type amqp\nfx_script f.py\n");
    let left = Service::LeftToSundew("amqp with fx_script".to_string());
    assert_eq!(service(&samples.places, UnitDir::Rx, &path), left);
}
