use proptest::prelude::*;

use super::*;
use crate::config::sundew::tests::{Samples, are_same};
use crate::config::{ConfigError, Errors, UnitName};

/// The flow of the unit's `.conf`, unless something in it is refused.
fn good(samples: &Samples, name: &UnitName) -> Option<Flow> {
    let (flow, errors) = samples.read(name);
    flow.filter(|_| errors.iter().all(|error| error.warning))
}

/// Writes what the conversion says.
fn write(samples: &Samples, conversion: &Conversion) {
    if let Some(site) = &conversion.site {
        samples.write("px.toml", site);
    }
    if let Some(secrets) = &conversion.secrets {
        samples.write("secrets.toml", secrets.expose());
        let path = samples.places.secrets_file();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
}

/// The unit and the broker are the same when they come back from TOML.
#[track_caller]
fn assert_comes_back(samples: &Samples, name: &UnitName) {
    let flow = good(samples, name).unwrap_or_else(|| panic!("{name}: {:?}", samples.read(name).1));
    let broker = flow.broker.clone();
    let conversion = convert(&samples.places, name, flow, &[]).unwrap();
    write(samples, &conversion);

    let errors = Errors::default();
    let table = Table::parse(Path::new("x.toml"), &conversion.unit, &errors);
    assert!(!errors.refused(), "{:?}\n{}", errors.take(), conversion.unit);
    let text = |table: &Table, key: &str| {
        let entry = table.entries().iter().find(|entry| entry.key == key)?;
        entry.value.as_text().map(str::to_string)
    };
    let named = text(&table, "broker");
    if let Some(broker) = broker {
        let (site, errors) = Site::load(&samples.places);
        assert!(errors.iter().all(|error| error.warning), "{errors:?}");
        let theirs = site.broker(&named.clone().unwrap()).unwrap();
        assert_eq!(theirs.urls, broker.urls);
        assert_eq!(theirs.urls[0].password.expose(), broker.urls[0].password.expose());
        assert_eq!(
            Broker {
                name: broker.name.clone(),
                ..theirs.clone()
            },
            broker
        );
    }
    let again = good(samples, name).unwrap().table;
    let again = match &named {
        Some(named) => again.with_text("broker", named),
        None => again,
    };
    let (again, password) = match &conversion.password {
        Some((file, _)) => again.with_secret_in("password", "password_file", file),
        None => (again, None),
    };
    assert_eq!(password, conversion.password.map(|(_, password)| password));
    assert!(are_same(table.entries(), again.entries()), "{}", conversion.unit);

    // Nothing is left to write.
    let conversion = convert(&samples.places, name, good(samples, name).unwrap(), &[]).unwrap();
    assert!(conversion.site.is_none() && conversion.secrets.is_none());
    assert!(
        named.is_none()
            || conversion
                .unit
                .contains(&format!("broker = {:?}", named.unwrap_or_default()))
    );
}

#[test]
fn every_sample_comes_back_from_toml() {
    let (samples, names) = Samples::all();
    for name in &names {
        assert_comes_back(&samples, name);
    }
    // Flows of one broker share it.
    let site = std::fs::read_to_string(samples.places.site_file()).unwrap();
    assert_eq!(site.matches("[brokers.localhost-guest]").count(), 1, "{site}");
    assert!(!site.contains("password"), "{site}");
}

#[test]
fn brokers_that_differ_have_names_that_do() {
    let samples = Samples::new();
    samples.write("px.toml", "# the site\n[brokers.h-u]\nurls = [\"amqp://u@elsewhere\"]");
    let conf = |password| format!("type amqp\nhost h\nuser u\npassword {password}\nexchange_name e\naccept .*\n");
    for (unit, password) in [("tx/a", "one"), ("tx/b", "two"), ("tx/c", "one")] {
        samples.write(&format!("{unit}.conf"), &conf(password));
        assert_comes_back(&samples, &unit.parse().unwrap());
    }
    let site = std::fs::read_to_string(samples.places.site_file()).unwrap();
    assert_eq!(
        site,
        "# the site\n[brokers.h-u]\nurls = [\"amqp://u@elsewhere\"]\n\n[brokers.h-u-2]\nurls = [\"amqp://u@h\"]\n\n\
         [brokers.h-u-3]\nurls = [\"amqp://u@h\"]\n"
    );
    let secrets = std::fs::read_to_string(samples.places.secrets_file()).unwrap();
    assert_eq!(secrets, "[h-u-2]\nu = \"one\"\n\n[h-u-3]\nu = \"two\"\n");
}

#[test]
fn a_crash_between_the_files_is_made_good() {
    let samples = Samples::new();
    samples.write(
        "tx/a.conf",
        "type amqp\nhost h\nuser u\npassword one\nexchange_name e\naccept .*\n",
    );
    let name: UnitName = "tx/a".parse().unwrap();
    let first = convert(&samples.places, &name, good(&samples, &name).unwrap(), &[]).unwrap();
    samples.write("px.toml", first.site.as_ref().unwrap());
    let second = convert(&samples.places, &name, good(&samples, &name).unwrap(), &[]).unwrap();
    assert!(second.site.is_none() && second.secrets == first.secrets);
    assert_eq!(second.unit, first.unit);
}

#[test]
fn what_cannot_be_added_to_is_left_alone() {
    let samples = Samples::new();
    let conf = |password| format!("type amqp\nhost h\nuser u\npassword {password}\nexchange_name e\naccept .*\n");
    let name: UnitName = "tx/a".parse().unwrap();
    samples.write("tx/a.conf", &conf("one"));
    samples.write("px.toml", "brokers = {}\n");
    let why = convert(&samples.places, &name, good(&samples, &name).unwrap(), &[]).unwrap_err();
    assert!(why.ends_with("px.toml: nothing can be added at its end"), "{why}");
    samples.write("px.toml", "brokers = 5\n");
    let why = convert(&samples.places, &name, good(&samples, &name).unwrap(), &[]).unwrap_err();
    assert!(why.contains("px.toml:1: brokers = 5"), "{why}");
    samples.write("px.toml", "");
    samples.write("tx/a.conf", &conf("a${canary}"));
    let why = convert(&samples.places, &name, good(&samples, &name).unwrap(), &[]).unwrap_err();
    assert!(why.contains("takes for a variable") && !why.contains("canary"), "{why}");
}

/// A conversion in a log or a panic shows no password.
#[test]
fn a_conversion_prints_no_password() {
    let samples = Samples::new();
    samples.write(
        "tx/a.conf",
        "type amqp\nhost h\nuser u\npassword canary\nexchange_name e\naccept .*\n",
    );
    let name = "tx/a".parse().unwrap();
    let flow = good(&samples, &name).unwrap();
    let shown = format!("{flow:?}");
    let shown = format!("{shown}{:?}", convert(&samples.places, &name, flow, &[]).unwrap());
    assert!(!shown.contains("canary"), "{shown}");
}

fn lines() -> impl Strategy<Value = String> {
    let words = [
        "accept",
        "reject",
        "imask",
        "emask",
        "user",
        "exchange_key",
        "exchange_content",
        "exchange_name",
        "batch",
        "cache_size",
        "noduplicates",
        "validation",
        "mtime",
        "sorter",
        "purge",
        "logrotate",
        "extension",
        "feed",
        "routemask",
        "routingTable",
        "host",
        "port",
        "filename",
        "directory",
        "type",
        "debug",
        "passwd",
        "protocol",
        "destination",
        "ssh_keyfile",
        "chmod",
        "lock",
        "kbytes_ps",
        "timeout",
        "timeout_send",
        "dir_pattern",
        "binary",
    ];
    let value = prop_oneof![
        r"[!-~é\x01\x7f]{1,12}",
        "[0-9]{1,6}",
        Just("True".to_string()),
        Just("None".to_string()),
        Just("5H,3:10H,4+".to_string()),
        Just("a:b:c:d:e".to_string()),
        Just("single-file".to_string()),
        Just("sftp".to_string()),
        Just("664".to_string()),
        Just("//a/${T1}/$x".to_string()),
        Just("ftp://u:canary@h/x".to_string()),
    ];
    let line = (proptest::sample::select(words.to_vec()), value, r"( [#!-~]{1,5})?");
    let line = line.prop_map(|(word, value, rest)| format!("{word} {value}{rest}\n"));
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the lines are, they are refused or come back; and no password is in what is said.
    #[test]
    fn generated_flows_come_back_from_toml(
        (dir, kind) in proptest::sample::select(vec![("tx", "amqp"), ("rx", "amqp"), ("tx", "single-file\nprotocol ftp")]),
        lines in lines(),
        password in r#"[!-#%-~é]{1,12}"#,
    ) {
        let samples = Samples::new();
        let text = format!("type {kind}\nuser u\nexchange_name e\n{lines}password canary{password}\n");
        samples.write(&format!("{dir}/x.conf"), &text);
        let name: UnitName = format!("{dir}/x").parse().unwrap();
        let (_, errors) = samples.read(&name);
        let said: Vec<String> = errors.iter().map(ConfigError::to_string).collect();
        prop_assert!(!said.concat().contains("canary"), "{said:?}");
        if good(&samples, &name).is_some() {
            assert_comes_back(&samples, &name);
        }
    }
}
