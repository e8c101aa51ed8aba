//! An LDAP server of our own, with the seed's tree.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{SOON, free_port, spawn_kept, wait_until};

const SERVER: &str = "/usr/sbin/slapd";
const CONFIGURATION: &str = r#"include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {directory}/slapd.pid
{tls}
database mdb
maxsize 10485760
directory {directory}/db
suffix "dc=ec,dc=gc,dc=ca"
access to attrs=userPassword by anonymous auth by * none
access to * by users read
"#;

/// `alice`, `bob` and `boss`, each with the password NAMEpw; alice and boss are users of the virtual host `/`, boss
/// makes queues there.
const PEOPLE: [&str; 3] = ["alice", "bob", "boss"];
const TREE: &str = "dn: dc=ec,dc=gc,dc=ca\nobjectClass: dcObject\nobjectClass: organization\no: EC\ndc: ec\n
dn: ou=depot,dc=ec,dc=gc,dc=ca\nobjectClass: organizationalUnit\nou: depot\n
dn: ou=vhosts,dc=ec,dc=gc,dc=ca\nobjectClass: organizationalUnit\nou: vhosts\n
dn: ou=People,ou=depot,dc=ec,dc=gc,dc=ca\nobjectClass: organizationalUnit\nou: People\n
dn: ou=/-users,ou=vhosts,dc=ec,dc=gc,dc=ca\nobjectClass: groupOfNames\ncn: users of /\nou: /-users
member: uid=alice,ou=People,ou=depot,dc=ec,dc=gc,dc=ca\nmember: uid=boss,ou=People,ou=depot,dc=ec,dc=gc,dc=ca\n
dn: cn=admin,dc=ec,dc=gc,dc=ca\nobjectClass: groupOfNames\ncn: admin
member: uid=boss,ou=People,ou=depot,dc=ec,dc=gc,dc=ca\n\n";

/// One server; dead when dropped.
pub struct Slapd {
    server: Child,
    plain: u16,
    tls: u16,
    _directory: tempfile::TempDir,
}

impl Slapd {
    /// Running; with the certificate of this directory it serves TLS too.
    pub fn start(certificates: Option<&Path>) -> Slapd {
        assert!(
            Path::new(SERVER).exists(),
            "slapd is missing: run scripts/test, or apt-get install --no-install-recommends slapd ldap-utils"
        );
        let temporary = tempfile::Builder::new().prefix("px-test-slapd-").tempdir();
        let directory = temporary.expect("temporary directory");
        let root = directory.path();
        std::fs::create_dir(root.join("db")).expect("db");
        let tls = certificates.map_or(String::new(), |at| {
            let file = |option, name| format!("{option} {}\n", at.join(name).display());
            file("TLSCACertificateFile", "ca.pem")
                + &file("TLSCertificateFile", "server.pem")
                + &file("TLSCertificateKeyFile", "server.key")
        });
        let text = CONFIGURATION.replace("{directory}", &root.display().to_string());
        std::fs::write(root.join("slapd.conf"), text.replace("{tls}", &tls)).expect("slapd.conf");
        let people = PEOPLE.map(|name| {
            format!(
                "dn: uid={name},ou=People,ou=depot,dc=ec,dc=gc,dc=ca\nobjectClass: inetOrgPerson\n\
                 uid: {name}\ncn: {name}\nsn: {name}\nuserPassword: {name}pw\n\n"
            )
        });
        std::fs::write(root.join("tree.ldif"), TREE.to_owned() + &people.concat()).expect("tree.ldif");
        let filled = Command::new("/usr/sbin/slapadd")
            .arg("-f")
            .arg(root.join("slapd.conf"))
            .arg("-l")
            .arg(root.join("tree.ldif"))
            .output()
            .expect("slapadd");
        assert!(filled.status.success(), "{filled:?}");
        let (plain, tls) = (free_port(), free_port());
        let mut urls = format!("ldap://127.0.0.1:{plain}");
        if certificates.is_some() {
            urls += &format!(" ldaps://127.0.0.1:{tls}");
        }
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", SERVER, "-d", "0", "-h", &urls, "-f"]);
        command.arg(root.join("slapd.conf")).stdin(Stdio::null());
        let server = spawn_kept(command).expect("slapd");
        let answers = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_until(SOON, "slapd answers", || {
            answers(plain) && (certificates.is_none() || answers(tls))
        });
        Slapd {
            server,
            plain,
            tls,
            _directory: directory,
        }
    }

    /// Port of `ldap`.
    pub fn port(&self) -> String {
        self.plain.to_string()
    }

    /// Port of `ldaps`.
    pub fn tls_port(&self) -> String {
        self.tls.to_string()
    }

    /// SIGSTOP: it takes connections and answers nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).expect("signal");
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        // Nothing lost: it is dead already when this fails.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
