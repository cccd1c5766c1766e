package isc_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/testenv"
	"slipway/orchestrator"
	"slipway/templates"
	"slipway/workers/appliance/agent"
	"slipway/workers/appliance/apply"
	"slipway/workers/dhcp/isc"
)

// files is a unit over a main file of its own, without a service.
func files(t *testing.T, main string) (*isc.Unit, string) {
	t.Helper()
	dir := t.TempDir()
	cfg := isc.Config{Main: filepath.Join(dir, "dhcpd.conf"), Include: filepath.Join(dir, "hosts.conf"), Dhcpd: testenv.Need(t, "dhcpd"), PIDFile: filepath.Join(dir, "pid")}
	write(t, cfg.Main, strings.ReplaceAll(main, "OURS", cfg.Include))
	u, err := isc.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return u, dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func candidate(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, isc.FileName), text)
	return dir
}

const subnetBlocks = "subnet 10.20.0.0 netmask 255.255.255.0 { }\nsubnet 10.30.0.0 netmask 255.255.0.0 { }\n"

func TestCheckJudgesTheCandidateAndNotTheLiveFile(t *testing.T) {
	u, dir := files(t, subnetBlocks+"include \"OURS\";\n")
	write(t, filepath.Join(dir, "hosts.conf"), "host broken {")
	if err := u.Check(t.Context(), candidate(t, "host fine { }\n")); err != nil {
		t.Errorf("a good candidate beside a broken live file: %v", err)
	}
	write(t, filepath.Join(dir, "hosts.conf"), "host fine { }\n")
	var fault *agent.Fault
	if err := u.Check(t.Context(), candidate(t, "host fine { }\nhost broken { hardware ethernet zz; }\n")); !errors.As(err, &fault) || fault.File != isc.FileName || fault.Line != 2 || fault.Message == "" {
		t.Errorf("a broken candidate beside a good live file: %v", err)
	}
}

func TestCheckNamesTheMachineWhoseNameTheSiteHasTaken(t *testing.T) {
	u, _ := files(t, subnetBlocks+"host "+id(6)+" { }\ninclude \"OURS\";\n")
	rendered, lines, err := isc.Render(templates.FS, []orchestrator.DHCPHost{host(5), host(6), host(7)}, subnets)
	if err != nil {
		t.Fatal(err)
	}
	err = u.Check(t.Context(), candidate(t, rendered[0].Content))
	var fault *agent.Fault
	if !errors.As(err, &fault) || !strings.Contains(fault.Message, "already exists") {
		t.Fatalf("%v", err)
	}
	if machine, ok := lines.Machine(fault.Line); !ok || machine != id(6) {
		t.Errorf("line %d is said to be of %s, the culprit is %s", fault.Line, machine, id(6))
	}
}

func TestCheckBlamesNoRowForTheSitesOwnFaults(t *testing.T) {
	for name, main := range map[string]string{
		"syntax":            "subnet {\ninclude \"OURS\";\n",
		"include missing":   subnetBlocks,
		"include commented": subnetBlocks + "# include \"OURS\";\n",
		"include twice":     subnetBlocks + "include \"OURS\";\ninclude \"OURS\";\n",
		"another file":      subnetBlocks + "include \"OURS\";\ninclude \"/nowhere/at/all\";\n",
	} {
		t.Run(name, func(t *testing.T) {
			u, _ := files(t, main)
			err := u.Check(t.Context(), candidate(t, "host fine { }\n"))
			var fault *agent.Fault
			if err == nil || errors.As(err, &fault) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestCheckBelievesNoOtherProgram(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "dhcpd.conf"), "include \""+dir+"/hosts.conf\";\n")
	for program, missing := range map[string]bool{"/bin/true": false, "/bin/false": false, "/nowhere/dhcpd": true} {
		u, err := isc.New(isc.Config{Main: filepath.Join(dir, "dhcpd.conf"), Include: filepath.Join(dir, "hosts.conf"), Dhcpd: program})
		if err != nil {
			t.Fatal(err)
		}
		err = u.Check(t.Context(), candidate(t, "host fine { }\n"))
		var fault *agent.Fault
		if err == nil || errors.As(err, &fault) || errors.Is(err, exec.ErrNotFound) != missing {
			t.Errorf("%s: %v", program, err)
		}
	}
}

func TestProveWithoutAServer(t *testing.T) {
	u, dir := files(t, subnetBlocks+"include \"OURS\";\n")
	write(t, filepath.Join(dir, "hosts.conf"), "")
	for name, pid := range map[string]string{"none": "", "garbage": "x\n", "init": "1\n", "ours": "self\n"} {
		if pid == "self\n" { // this test is alive, and not dhcpd
			pid = strings.TrimSpace(readlink(t, "/proc/self")) + "\n"
		}
		if name != "none" {
			write(t, filepath.Join(dir, "pid"), pid)
		}
		if err := u.Prove(t.Context()); err == nil || !strings.Contains(err.Error(), "does not run") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func readlink(t *testing.T, path string) string {
	t.Helper()
	link, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]isc.Config{
		"relative":       {Main: "dhcpd.conf"},
		"quote":          {Include: `/etc/"x`},
		"same":           {Main: "/etc/dhcpd.conf", Include: "/etc/dhcpd.conf"},
		"two ways":       {Start: []string{"dhcpd"}, Restart: []string{"service"}},
		"negative times": {StopTimeout: -1},
	} {
		if _, err := isc.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestDirectoryAppliance is what a demo runs: the real file, judged by the real dhcpd where there is one, and no service.
func TestDirectoryAppliance(t *testing.T) {
	dir := t.TempDir()
	main, include, config := filepath.Join(dir, "dhcpd.conf"), filepath.Join(dir, "hosts.conf"), filepath.Join(dir, "agent.yaml")
	write(t, main, subnetBlocks+"include \""+include+"\";\n")
	rendered, _, err := isc.Render(templates.FS, []orchestrator.DHCPHost{host(5)}, subnets)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ dhcpd, says string }{
		"judged":       {testenv.Need(t, "dhcpd"), ""},
		"without tool": {"/nowhere/dhcpd", "not judged"},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, config, "state_dir: "+t.TempDir()+"\nunits:\n  dhcp: {driver: "+isc.Driver+", service: none, main: "+main+", include: "+include+", dhcpd: "+tc.dhcpd+"}\n")
			cfg, err := agent.LoadConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			a, err := agent.New(cfg, agent.Registry{isc.Driver: isc.Factory}, nil)
			if err != nil {
				t.Fatal(err)
			}
			answer := a.Apply(t.Context(), apply.Request{Unit: "dhcp", Generation: 1, Files: rendered, SHA256: apply.Sum(rendered), Rows: 1})
			if answer.Code != apply.Applied || answer.Reloaded || (answer.Message == "") != (tc.says == "") || !strings.Contains(answer.Message, tc.says) {
				t.Errorf("%+v", answer)
			}
			if text, err := os.ReadFile(include); err != nil || string(text) != rendered[0].Content {
				t.Errorf("placed %q, %v", text, err)
			}
		})
	}
	write(t, config, "units:\n  dhcp: {driver: "+isc.Driver+", mian: /x}\n")
	cfg, err := agent.LoadConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.New(cfg, agent.Registry{isc.Driver: isc.Factory}, nil); err == nil || !strings.Contains(err.Error(), "mian") {
		t.Errorf("an unknown key: %v", err)
	}
}

func TestCountRows(t *testing.T) {
	u, err := isc.New(isc.Config{})
	if err != nil {
		t.Fatal(err)
	}
	rendered, _, err := isc.Render(templates.FS, []orchestrator.DHCPHost{host(5), host(6), host(7)}, subnets)
	if err != nil {
		t.Fatal(err)
	}
	if n := u.CountRows(map[string][]byte{isc.FileName: []byte(rendered[0].Content)}); n != 3 {
		t.Errorf("%d", n)
	}
	if n := u.CountRows(nil); n != 0 {
		t.Errorf("nothing: %d", n)
	}
}
