//! What a pull worker may fetch, and who it is where it fetches.

use std::path::PathBuf;

use url::Url;

use crate::config::Table;
use crate::config::options::{self, Wanted, named_file};
use crate::transfer::ftp::How;
use crate::transfer::peer::Login;
use crate::transfer::policy::Policy;
use crate::transfer::{self, Credential};

const WHO: &str = "password or password_file, one of them";
/// Options of `[[credentials]]` that not every scheme has.
const OF_SCHEMES: [(&str, &[&str]); 6] = [
    ("certificate_file", &["https", "ftp"]),
    ("key_file", &["sftp"]),
    ("agent", &["sftp"]),
    ("known_hosts", &["sftp"]),
    ("tls", &["ftp"]),
    ("ftp_mode", &["ftp"]),
];

/// Reads the options of fetching; what is wrong is noted in the table.
pub(super) fn read(table: &mut Table) -> Option<transfer::Options> {
    let plain = transfer::Options::default();
    let schemes = |text: &str| match text {
        "http" | "https" | "file" | "ftp" | "sftp" => Ok(text.to_owned()),
        _ => Err(String::new()),
    };
    let policy = Policy {
        schemes: table
            .parsed_list("schemes", schemes, "a list of http, https, ftp, sftp, file")
            .unwrap_or(plain.policy.schemes),
        hosts: table
            .parsed_list(
                "hosts",
                |text| text.parse().map_err(|_| String::new()),
                "a list of host or host:port",
            )
            .unwrap_or_default(),
        file_roots: table
            .parsed_list("file_roots", absolute, "a list of absolute paths")
            .unwrap_or_default(),
    };
    if policy.schemes.iter().any(|scheme| scheme == "file") && policy.file_roots.is_empty() {
        table.refuse("schemes", "file is accepted with file_roots = [\"/…\"] only");
    }
    let mut credentials = Vec::new();
    let tables = table.tables("credentials");
    let count = tables.len();
    for table in tables {
        credentials.extend(read_credential(table));
    }
    let options = transfer::Options {
        policy,
        ca_file: named_file(table, "ca_file", Wanted::Certificates),
        connect_timeout: options::positive_duration(table, "connect_timeout").unwrap_or(plain.connect_timeout),
        read_timeout: options::positive_duration(table, "read_timeout").unwrap_or(plain.read_timeout),
        max_bytes: table.size("max_size").unwrap_or(plain.max_bytes),
        credentials,
        ..plain
    };
    (options.credentials.len() == count).then_some(options)
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(String::new()),
    }
}

fn prefix(text: &str) -> Result<Url, String> {
    match text.parse::<Url>() {
        Ok(url) if url.has_host() && url.username().is_empty() && url.password().is_none() => Ok(url),
        _ => Err(String::new()),
    }
}

fn read_credential(table: Table) -> Option<Credential> {
    let mut table = table.keep_secret();
    let prefix = table.parsed("url", prefix, "the beginning of a URL, without user and password");
    if !table.has("url") {
        table.reject("url", "the beginning of a URL");
    }
    let user = table.string("user");
    let password = options::password(&mut table);
    let has_password = table.has("password") || table.has("password_file");
    let mut path = |key: &str, wanted| named_file(&mut table, key, wanted);
    let (certificate_file, key_file, known_hosts) = (
        path("certificate_file", Wanted::CertificateAndKey),
        path("key_file", Wanted::PrivateKey { has_password }),
        path("known_hosts", Wanted::HostKeys),
    );
    let agent = table.boolean("agent").unwrap_or(false);
    let how = How {
        tls: table.boolean("tls").unwrap_or(false),
        active: table
            .choice("ftp_mode", &[("passive", false), ("active", true)])
            .unwrap_or(false),
        ascii: false,
    };
    let login = Login {
        user: String::new(),
        password: password.clone().flatten(),
        key_file,
        agent,
        certificate_file,
    };
    let fits = prefix
        .as_ref()
        .is_none_or(|prefix| fits(&mut table, prefix, &login, how));
    // What is there and wrong has been said already.
    let is_wrong = table.has("user") && user.is_none();
    let login = Login {
        user: user.unwrap_or_default(),
        ..login
    };
    let is_complete = !is_wrong && is_complete(&mut table, &login);
    table.finish();
    let credential = Credential {
        known_hosts,
        how,
        ..Credential::new(prefix?, login)
    };
    (fits && is_complete && password.is_some()).then_some(credential)
}

/// Whether the scheme has all these options.
fn fits(table: &mut Table, prefix: &Url, login: &Login, how: How) -> bool {
    let mut fits = true;
    for (key, schemes) in OF_SCHEMES {
        if table.has(key) && !schemes.contains(&prefix.scheme()) {
            table.refuse(key, &format!("only where url begins with {}", schemes.join(" or ")));
            fits = false;
        }
    }
    if prefix.scheme() == "ftp" && login.certificate_file.is_some() && !how.tls {
        table.refuse("certificate_file", "only with tls = true");
        fits = false;
    }
    fits
}

/// Whether it tells who px is.
fn is_complete(table: &mut Table, login: &Login) -> bool {
    let has_certificate = table.has("certificate_file");
    let has_secret = ["password", "password_file", "key_file", "agent"]
        .iter()
        .any(|key| table.has(key));
    if !table.has("user") && (has_secret || !has_certificate) || table.has("user") && login.user.is_empty() {
        table.reject("user", "the name of a user");
        return false;
    }
    if !has_secret && (!has_certificate || table.has("user")) {
        table.reject("password", WHO);
        return false;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Errors;

    fn options(text: &str) -> Result<transfer::Options, Vec<String>> {
        let errors = Errors::default();
        let mut table = Table::parse(Path::new("t.toml"), text, &errors);
        let options = read(&mut table);
        table.finish();
        // Files that are not there yet are warnings.
        let said = errors.take().into_iter().filter(|error| !error.warning);
        let said: Vec<String> = said.map(|error| error.to_string()).collect();
        options.filter(|_| said.is_empty()).ok_or(said)
    }

    #[test]
    fn who_px_is_by_every_scheme() {
        let table = [
            "url = \"http://h/a\"\nuser = \"u\"\npassword = \"canary\"",
            "url = \"https://h\"\ncertificate_file = \"/c.pem\"",
            "url = \"https://h\"\ncertificate_file = \"/c.pem\"\nuser = \"u\"\npassword = \"canary\"",
            "url = \"ftp://h\"\nuser = \"u\"\npassword = \"canary\"\nftp_mode = \"active\"",
            "url = \"ftp://h\"\ntls = true\nuser = \"u\"\npassword = \"canary\"\ncertificate_file = \"/c.pem\"",
            "url = \"sftp://h\"\nuser = \"u\"\nkey_file = \"/k\"\nknown_hosts = \"/n\"",
            "url = \"sftp://h\"\nuser = \"u\"\nagent = true",
        ];
        for text in table {
            let options = options(&format!("schemes = [\"sftp\"]\n[[credentials]]\n{text}\n"));
            assert_eq!(
                options
                    .unwrap_or_else(|said| panic!("{text}: {said:?}"))
                    .credentials
                    .len(),
                1
            );
        }
        let active =
            options("[[credentials]]\nurl = \"ftp://h\"\nuser = \"u\"\npassword = \"p\"\nftp_mode = \"active\"\n");
        assert!(active.unwrap().credentials[0].how.active);
    }

    #[test]
    fn what_a_scheme_does_not_have_is_said_once() {
        let table = [
            ("user = \"u\"\npassword = \"canary\"", "url"),
            ("url = \"http://h\"\npassword = \"canary\"", "user"),
            ("url = \"http://h\"\nuser = \"u\"", "password"),
            (
                "url = \"https://h\"\nuser = \"u\"\ncertificate_file = \"/c\"",
                "password",
            ),
            ("url = \"http://h\"\ncertificate_file = \"/c\"", "certificate_file"),
            (
                "url = \"ftp://h\"\nuser = \"u\"\npassword = \"canary\"\ncertificate_file = \"/c\"",
                "certificate_file",
            ),
            ("url = \"sftp://h\"\nuser = \"u\"", "password"),
            ("url = \"sftp://h\"\nuser = \"u\"\nagent = true\ntls = true", "tls"),
            (
                "url = \"http://h\"\nuser = \"u\"\npassword = \"canary\"\nkey_file = \"/k\"",
                "key_file",
            ),
            ("url = \"http://h\"\nuser = \"u\"\npassword = \"\"", "password"),
            (
                "url = \"sftp://h\"\nuser = \"u\"\nkey_file = \"/etc/passwd\"",
                "key_file",
            ),
            ("url = \"http://h\"\nuser = 3\npassword = \"canary\"", "user"),
            (
                "url = \"http://h\"\nuser = \"u\"\npassword_file = \"/no/such\"",
                "password_file",
            ),
            (
                "url = \"http://u:canary@h\"\nuser = \"u\"\npassword = \"canary\"",
                "url",
            ),
        ];
        for (text, key) in table {
            let said = options(&format!("[[credentials]]\n{text}\n")).unwrap_err();
            assert_eq!(said.len(), 1, "{text}: {said:?}");
            assert!(said[0].contains(key) && !said[0].contains("canary"), "{text}: {said:?}");
        }
    }
}
