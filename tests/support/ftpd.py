"""ftpd.py PORT HOME COMMANDS [PEM] [WORD...] -- user u, password pw; commands are written to COMMANDS.

PEM: certificate and key; then nothing goes without TLS. cut=BYTES: each connection breaks off after so many bytes of
files. norename: RNTO does not replace. nochmod: no SITE CHMOD. umask: SITE UMASK. user: as uid 1000, which gets the
home. login=USER:PASSWORD: another user of the same home."""
import os
import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import DTPHandler, FTPHandler, TLS_DTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer

port, home, commands = int(sys.argv[1]), sys.argv[2], open(sys.argv[3], "ab", buffering=0)
words = sys.argv[4:]
pem = next((word for word in words if word.endswith(".pem")), None)
cut = next((int(word[4:]) for word in words if word.startswith("cut=")), None)


class Data(TLS_DTPHandler if pem else DTPHandler):
    def send(self, data):
        sent = super().send(data)
        if cut is not None and self.tot_bytes_sent >= cut:
            self.cmd_channel.close()
            self.close()
        return sent


class Control(TLS_FTPHandler if pem else FTPHandler):
    dtp_handler = Data
    # Names are bytes.
    unicode_errors = "surrogateescape"
    use_sendfile = False
    proto_cmds = dict(FTPHandler.proto_cmds if not pem else TLS_FTPHandler.proto_cmds)
    if "umask" in words:
        proto_cmds["SITE UMASK"] = dict(perm=None, auth=True, arg=None, help="SITE UMASK [mask]")

    def pre_process_command(self, line, cmd, arg):
        commands.write(line.encode("utf8", "surrogateescape") + b"\n")
        super().pre_process_command(line, cmd, arg)

    def ftp_RNTO(self, path):
        if "norename" in words and os.path.lexists(path):
            self._rnfr = None
            return self.respond("550 There is such a file.")
        return super().ftp_RNTO(path)

    def ftp_SITE_UMASK(self, line):
        if not line:
            now = os.umask(0)
            os.umask(now)
            return self.respond("200 Current UMASK is %03o" % now)
        os.umask(int(line, 8))
        self.respond("200 UMASK set to %s" % line)

    def ftp_SITE_CHMOD(self, path, mode):
        if "nochmod" in words:
            return self.respond("502 Not implemented.")
        return super().ftp_SITE_CHMOD(path, mode)


if "user" in words:
    os.chown(home, 1000, 1000)
    os.setgroups([])
    os.setgid(1000)
    os.setuid(1000)
os.umask(0o022)
users = DummyAuthorizer()
users.add_user("u", "pw", home, perm="elradfmwMT")
for login in (word[6:] for word in words if word.startswith("login=")):
    users.add_user(*login.split(":", 1), home, perm="elradfmwMT")
users.add_anonymous(home, perm="elradfmwMT")
Control.authorizer = users
if pem:
    Control.certfile = pem
    Control.tls_control_required = Control.tls_data_required = True
FTPServer((os.environ.get("FTPD_ADDRESS", "127.0.0.1"), port), Control).serve_forever()
