package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/testnet"
	simxapi "slipway/sim/xapi"
)

// delays are how long a pool's operations take, so that something is under way when it is killed.
type delays map[string]time.Duration

// toolstack is a pool's process: this test's own program once more. It keeps the pool in a file, tells of VMs that start and stop in
// another, and finds the addresses of guests in a folder: as on a real host, they outlive it.
type toolstack struct {
	t       *testing.T
	manager *testnet.Namespace
	dir     string
	address string
	process *testnet.Process
}

// toolstackVar names the file that tells a process of this program that it is a pool, and what it is.
const toolstackVar = "SLIPWAY_E2E_TOOLSTACK"

type toolstackSpec struct {
	Password string
	Private  netip.Prefix
	Images   []string
	Delays   delays
	Listen   string
}

// The files of a toolstack, in its folder.
const (
	toolstackPool        = "pool.state"
	toolstackCertificate = "pool.pem"
	toolstackPower       = "power"
	toolstackGuests      = "guests"
)

// startApart makes the pool a process of its own, until the test ends.
func (p *pool) startApart(s *site, d delays) {
	p.t.Helper()
	k := &toolstack{t: p.t, manager: s.manager, dir: filepath.Join(s.dir, p.id), address: p.address}
	p.apart = k
	if err := os.MkdirAll(filepath.Join(k.dir, toolstackGuests), 0o755); err != nil {
		p.t.Fatal(err)
	}
	var err error
	if _, p.pin, err = simxapi.KeptCertificate(filepath.Join(k.dir, toolstackCertificate), managerAddress); err != nil {
		p.t.Fatal(err)
	}
	spec, err := json.Marshal(toolstackSpec{Password: p.password, Private: p.private, Images: slices.Sorted(maps.Keys(p.images)), Delays: d, Listen: p.address})
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(k.spec(), spec, 0o600); err != nil {
		p.t.Fatal(err)
	}
	k.start()
	k.follow(s.guests)
	p.connect(carryOut(p.t, s.manager, p.address))
}

func (k *toolstack) spec() string { return filepath.Join(k.dir, "spec.json") }

// start returns when the toolstack answers.
func (k *toolstack) start() {
	k.t.Helper()
	program, err := os.Executable()
	if err != nil {
		k.t.Fatal(err)
	}
	k.process = k.manager.Start("env", toolstackVar+"="+k.spec(), program)
	testnet.Until(k.t, 30*time.Second, "a toolstack to listen", func() bool {
		select {
		case <-k.process.Done():
			k.t.Fatalf("the toolstack at %s ended: %s", k.address, k.process.Output())
		default:
		}
		return !k.refuses()
	})
}

// refuses is whether nobody listens.
func (k *toolstack) refuses() (refused bool) {
	k.manager.Do(func() {
		conn, err := net.DialTimeout("tcp4", k.address, 5*time.Second)
		if refused = err != nil; !refused {
			_ = conn.Close()
		}
	})
	return refused
}

// follow boots and stops guests as the toolstacks of this folder tell, one after another, until the test ends.
func (k *toolstack) follow(g *guests) {
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for read := 0; ctx.Err() == nil; {
			n, err := k.told(read, g)
			if err != nil {
				k.t.Errorf("what the toolstack at %s tells: %v", k.address, err)
				return
			}
			read += n
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	})
	k.t.Cleanup(func() { cancel(); following.Wait() })
}

// told does what the lines from an offset on say, and returns how many bytes they have. A kill may have cut a line short: the next start
// begins one of its own.
func (k *toolstack) told(from int, g *guests) (int, error) {
	text, err := os.ReadFile(filepath.Join(k.dir, toolstackPower))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	text = text[from:]
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	for line := range bytes.Lines(text) {
		var change simxapi.Power
		if json.Unmarshal(line, &change) != nil {
			continue // cut short, and told again by the next
		}
		g.power(change)
		for _, vif := range change.VIFs {
			address, ok := g.address(vif.MAC)
			if !ok {
				continue
			}
			file := filepath.Join(k.dir, toolstackGuests, guestFile(vif.MAC))
			if err := errors.Join(os.WriteFile(file+".new", []byte(address), 0o600), os.Rename(file+".new", file)); err != nil {
				return 0, err
			}
		}
	}
	return len(text), nil
}

func guestFile(mac string) string { return strings.ToLower(strings.ReplaceAll(mac, ":", "")) }

// toolstackMain is the process: it ends by being killed.
func toolstackMain(file string) int {
	err := serveToolstack(file)
	fmt.Fprintln(os.Stderr, "toolstack:", err)
	return 1
}

func serveToolstack(file string) error {
	dir := filepath.Dir(file)
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var spec toolstackSpec
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	cert, _, err := simxapi.KeptCertificate(filepath.Join(dir, toolstackCertificate))
	if err != nil {
		return err
	}
	power, err := os.OpenFile(filepath.Join(dir, toolstackPower), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err := power.WriteString("\n"); err != nil { // ends what a kill has cut short
		return err
	}
	p := &pool{password: spec.Password, private: spec.Private, images: map[string]string{}}
	for _, image := range spec.Images {
		p.images[image] = ""
	}
	config := p.simulated(0)
	config.State = filepath.Join(dir, toolstackPool)
	told := make(chan error, 1)
	config.OnPower = func(change simxapi.Power) {
		line, err := json.Marshal(change)
		if err == nil {
			_, err = power.Write(append(line, '\n'))
		}
		if err != nil {
			select {
			case told <- err:
			default:
			}
		}
	}
	config.GuestAddress = func(mac string) (string, bool) {
		address, err := os.ReadFile(filepath.Join(dir, toolstackGuests, guestFile(mac)))
		return string(address), err == nil
	}
	sim, err := simxapi.New(config)
	if err != nil {
		return err
	}
	for method, d := range spec.Delays {
		sim.SetDelay(method, d)
	}
	listener, err := net.Listen("tcp4", spec.Listen)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- sim.Serve(context.Background(), listener, &cert) }()
	select {
	case err := <-served:
		return err
	case err := <-told:
		return err
	}
}
