package e2e

import (
	"slices"
	"strings"
)

// proveDebian looks at the machine that the catalogue's own debian entry, unchanged, has made of a whole Debian 12.
func (l *lab) proveDebian(m labMachine) {
	l.t.Helper()
	l.say("%s, a whole Debian:", m.Name)
	l.check("it was made by the entry debian-12", m.Image == "debian-12", "%s", m.Image)
	out, shown, err := l.run(m, "ps -p 1 -o comm=; . /etc/os-release; echo $VERSION_CODENAME; hostname; cat /etc/machine-id; systemctl is-active ssh; df --output=size -BM / | tail -1")
	seen := strings.Fields(out)
	want := []string{"systemd", "bookworm", m.host, m.Identity, "active"}
	l.check("systemd runs in it, and its name and identity are its own", err == nil && len(seen) > len(want) && slices.Equal(seen[:len(want)], want), "%q%s", seen, orNothing(err))
	l.check("its host key is the one that slipway made for it", shown != "" && strings.HasPrefix(m.HostKey, shown) && shown != m.template, "%s", clipped(shown))
	failed, _, err := l.run(m, "systemctl --failed --plain --no-legend; true")
	l.check("no unit has failed", err == nil && strings.TrimSpace(failed) == "", "%q%s", failed, orNothing(err))
}
