package guest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// account is a line of /etc/passwd.
type account struct {
	name, home, line string
	uid, gid         int
}

func (g *Guest) accounts() []account {
	text, err := g.root.ReadFile("etc/passwd")
	if err != nil {
		return nil
	}
	var all []account
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.Split(line, ":")
		if len(f) != 7 {
			continue
		}
		uid, uidErr := strconv.Atoi(f[2])
		gid, gidErr := strconv.Atoi(f[3])
		if uidErr == nil && gidErr == nil {
			all = append(all, account{name: f[0], home: f[5], line: line, uid: uid, gid: gid})
		}
	}
	return all
}

func (g *Guest) account(name string) (account, bool) {
	all := g.accounts()
	i := slices.IndexFunc(all, func(a account) bool { return a.name == name })
	if i < 0 {
		return account{}, false
	}
	return all[i], true
}

// passwdLine is a line of /etc/passwd. Its comment is never empty: the interpreter's `read` takes two colons for one.
func passwdLine(name string, uid int) string {
	return fmt.Sprintf("%s:x:%d:%d:%s:/home/%s:/bin/bash\n", name, uid, uid, name, name)
}

// getent is `getent passwd NAME`.
func getent(v *invocation) int {
	if len(v.args) != 2 || v.args[0] != "passwd" {
		return v.fail(exitMisuse, "only passwd NAME is simulated")
	}
	a, ok := v.guest.account(v.args[1])
	if !ok {
		return 2
	}
	fmt.Fprintln(v.stdout, a.line)
	return 0
}

// id is `id -u [NAME]`.
func id(v *invocation) int {
	_, names := operands(v.args)
	if len(names) == 0 {
		fmt.Fprintln(v.stdout, 0)
		return 0
	}
	a, ok := v.guest.account(names[0])
	if !ok {
		return v.fail(1, "'%s': no such user", names[0])
	}
	fmt.Fprintln(v.stdout, a.uid)
	return 0
}

// useradd is `useradd --create-home --shell /bin/bash -- NAME`.
func useradd(v *invocation) int {
	_, names := operands(v.args)
	if len(names) == 0 {
		return v.fail(exitMisuse, "no user")
	}
	name := names[len(names)-1]
	if _, ok := v.guest.account(name); ok {
		return v.fail(9, "user '%s' already exists", name)
	}
	uid := 1000
	for _, a := range v.guest.accounts() {
		if a.uid >= uid && a.uid < 60000 {
			uid = a.uid + 1
		}
	}
	text, err := v.disk().ReadFile("etc/passwd")
	if err == nil {
		err = v.disk().MkdirAll("home/"+name, 0o755)
	}
	if err == nil {
		err = v.disk().WriteFile("etc/passwd", append(text, passwdLine(name, uid)...), 0o644)
	}
	if err != nil {
		return v.failWith(err)
	}
	return 0
}

// hostname reads or sets the kernel's name.
func hostname(v *invocation) int {
	v.guest.mu.Lock()
	defer v.guest.mu.Unlock()
	if len(v.args) == 0 {
		fmt.Fprintln(v.stdout, v.guest.hostname)
		return 0
	}
	v.guest.hostname = v.args[0]
	return 0
}

// sshKeygen is `ssh-keygen -lf FILE` on a private key without a passphrase.
func sshKeygen(v *invocation) int {
	if len(v.args) != 2 || v.args[0] != "-lf" {
		return v.fail(exitMisuse, "only -lf FILE is simulated")
	}
	text, err := v.disk().ReadFile(v.path(v.args[1]))
	if err != nil {
		return v.fail(255, "%s: %v", v.args[1], cause(err))
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return v.fail(255, "%s is not a key file.", v.args[1])
	}
	fmt.Fprintf(v.stdout, "256 %s no comment (ED25519)\n", ssh.FingerprintSHA256(signer.PublicKey()))
	return 0
}

// sshdTest is `sshd -t`.
func sshdTest(v *invocation) int {
	if !slices.Equal(v.args, []string{"-t"}) {
		return v.fail(1, "only -t is simulated")
	}
	if _, err := v.guest.loadHostKey(); err != nil {
		return v.fail(1, "%v", err)
	}
	return 0
}

// systemctl knows one unit that matters: a reload of ssh serves the keys that are on the disk now. Open sessions stay.
func systemctl(v *invocation) int {
	unit := "ssh.service"
	if v.guest.packager != "apt" {
		unit = "sshd.service"
	}
	if !slices.Equal(v.args, []string{"try-reload-or-restart", unit}) {
		return v.fail(5, "Failed: only try-reload-or-restart %s is simulated, Unit %q not found", unit, v.args)
	}
	signer, err := v.guest.loadHostKey()
	if err != nil {
		return v.fail(1, "Job for %s failed: %v", unit, err)
	}
	v.guest.mu.Lock()
	defer v.guest.mu.Unlock()
	v.guest.signer = signer
	return 0
}

// dpkgQuery is `dpkg-query -W -f '${db:Status-Status}' -- NAME`.
func dpkgQuery(v *invocation) int {
	_, names := operands(v.args)
	if len(names) == 0 {
		return v.fail(exitMisuse, "no package")
	}
	name := names[len(names)-1]
	v.guest.mu.Lock()
	defer v.guest.mu.Unlock()
	if !v.guest.packages[name] {
		return v.fail(1, "no packages found matching %s", name)
	}
	fmt.Fprint(v.stdout, "installed")
	return 0
}

// aptGet knows `update` and `install -- NAME...`; a lock that somebody holds makes it fail at once.
func aptGet(v *invocation) int {
	v.guest.mu.Lock()
	defer v.guest.mu.Unlock()
	if v.guest.holder != "" {
		return v.fail(100, "E: Could not get lock %s. It is held by process %d (%s)", dpkgLock, holderPID, v.guest.holder)
	}
	if i := slices.Index(v.args, "--"); i > 0 && slices.Contains(v.args[:i], "install") {
		for _, name := range v.args[i+1:] {
			v.guest.packages[name] = true
			fmt.Fprintf(v.stdout, "Setting up %s ...\n", name)
		}
	}
	return 0
}
