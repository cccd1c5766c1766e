# Asks a guest with pywinrm (python3-winrm). Arguments: endpoint transport user; the password is on stdin. One JSON line comes out.
import base64, json, sys
from winrm.protocol import Protocol
from winrm.exceptions import InvalidCredentialsError, WinRMError

endpoint, transport, user = sys.argv[1:4]
password = sys.stdin.readline().rstrip("\n")
out = {}
p = Protocol(endpoint, transport=transport, username=user, password=password, server_cert_validation="ignore",
             operation_timeout_sec=1, read_timeout_sec=20)


def run(command, args=()):
    shell = p.open_shell()
    command_id = p.run_command(shell, command, args)
    stdout, stderr, code = p.get_command_output(shell, command_id)
    p.cleanup_command(shell, command_id)
    p.close_shell(shell)
    return [stdout.decode(), stderr.decode(), code]


try:
    out["echo"] = run("echo", ["<a> & 'b'", "\u00fcmlaut"])
    out["unknown"] = run("nonsense")
    out["slow"] = run("timeout", ["/t", "2.2"])  # longer than operation_timeout_sec: the faults in between mean "ask again"
    out["long"] = run("echo " + "x" * 9000)
    script = "Write-Output ('y' * 100000); [Console]::Error.WriteLine('careful'); exit 7"
    r = run("powershell", ["-encodedcommand", base64.b64encode(script.encode("utf_16_le")).decode()])
    out["powershell"] = [len(r[0]), r[1], r[2]]
except InvalidCredentialsError as e:
    out["refused"] = str(e)
except WinRMError as e:
    out["error"] = str(e)
print(json.dumps(out))
