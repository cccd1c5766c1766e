package e2e

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipway/internal/guestimage"
	"slipway/internal/testnet"
)

var endpoint = regexp.MustCompile(`(?m)^master https://\S+ sha256:(\S+)$`)

// hypervise starts the pool of real guests: the simulator's own process, on a machine with a leg in the management network and a bridge into the
// machines' network.
func (s *site) hypervise(images map[string]guestimage.Image) {
	t, p := s.t, s.pools[0]
	t.Helper()
	s.hypervisor = s.lab.Namespace("hypervisor")
	s.lab.Link(s.manager, "m-hyper", s.hypervisor, "mgmt")
	s.manager.MustRun("ip", "link", "set", "m-hyper", "master", "mgmt")
	s.hypervisor.MustRun("ip", "address", "add", hypervisorAddress+"/24", "dev", "mgmt")
	s.lab.Link(s.lan, "l-hyper", s.hypervisor, "lan")
	s.lan.MustRun("ip", "link", "set", "l-hyper", "master", "lan")
	s.hypervisor.Bridge("xenbr0", "lan")
	argv := []string{s.program, "sim", "xapi", "--listen", p.address, "--password", p.password, "--tls", "--hosts", "1", "--guests", "qemu"}
	for _, name := range slices.Sorted(maps.Keys(images)) {
		argv = append(argv, "--image", name+"="+images[name].Dir)
	}
	process := s.hypervisor.Start(argv...)
	t.Cleanup(func() {
		process.Signal(syscall.SIGTERM) // it removes its disks
		ended(t, process, "the hypervisor")
		if t.Failed() {
			t.Logf("the hypervisor said:\n%s", lastLines(process.Output(), 40))
		}
	})
	testnet.Until(t, time.Minute, "the hypervisor to answer", func() bool {
		select {
		case <-process.Done():
			t.Fatalf("the hypervisor ended:\n%s", process.Output())
		default:
		}
		m := endpoint.FindStringSubmatch(process.Output())
		if m != nil {
			p.pin = m[1]
		}
		return m != nil
	})
	p.connect(carryOut(t, s.manager, p.address))
}

// ended waits for a process that was asked to end; the end of the test kills it.
func ended(t *testing.T, p *testnet.Process, what string) {
	t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	select {
	case <-p.Done():
	case <-limit.C:
		t.Errorf("%s does not end", what)
	}
}

// guestsOf counts the QEMU processes of the hypervisor: those that have the VM's uuid in their command line.
func (s *site) guestsOf(vm string) int {
	out, err := s.hypervisor.Run(s.t.Context(), "pgrep", "-f", "--", "qemu-system.*-uuid "+regexp.QuoteMeta(vm))
	if err != nil {
		return 0
	}
	return len(strings.Fields(out))
}
