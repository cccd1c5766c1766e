package install

import (
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"slipway/orchestrator"
)

const (
	handleJob    = "job"        // the detached job's id in the guest
	handleOffset = "job_offset" // how much of its log was read
	handleID     = "identity"   // the finished guest's, recorded before the installer leaves it and cannot ask again
)

// postInstall runs the image's catalogue entry in the guest as a detached job, once by its id, and reads the finished guest's identity.
func postInstall(h orchestrator.Hypervisor, i orchestrator.Installer, v orchestrator.Vault) act {
	return func(ctx context.Context, s *orchestrator.Step) (orchestrator.Outcome, error) {
		guest, why, err := reach(ctx, h, i, s)
		if err != nil {
			return orchestrator.Outcome{}, err
		}
		if why != "" {
			return orchestrator.WaitFor("", 2*time.Second, "%s", why)
		}
		if identity := s.Handle(handleID); identity != "" {
			return leave(ctx, i, s, guest, identity)
		}
		id := s.Handle(handleJob)
		if id == "" {
			id = fmt.Sprintf("%s-%d", s.Run.ID, s.Run.Attempt)
			if err := s.Record(ctx, handleJob, id); err != nil {
				return orchestrator.Outcome{}, err
			}
			return startJob(ctx, i, v, s, guest, id)
		}
		offset, _ := strconv.ParseInt(s.Handle(handleOffset), 10, 64) // absent is the beginning
		status, err := i.ObserveJob(ctx, guest, id, offset)
		if err != nil {
			return orchestrator.Outcome{}, err
		}
		switch {
		case status.State == orchestrator.JobUnknown:
			return startJob(ctx, i, v, s, guest, id)
		case status.State == orchestrator.JobRunning:
			s.Run.Handles[handleOffset] = strconv.FormatInt(status.Offset, 10) // rides in the wait's commit
			return orchestrator.WaitFor("", time.Second, "post-install is at %s", orDash(status.Stage))
		case status.State == orchestrator.JobLost:
			forgetJob(s)
			return orchestrator.Outcome{}, orchestrator.Errorf("post_install", orchestrator.Transient, "job %s ended without an exit code, at %s: the guest may have restarted", id, orDash(status.Stage))
		case status.Exit != 0:
			kind := orchestrator.Transient
			if status.Hopeless() {
				kind = orchestrator.Permanent
			}
			forgetJob(s)
			return orchestrator.Outcome{}, orchestrator.Errorf("post_install", kind, "job %s ended with %d at %s: %s", id, status.Exit, orDash(status.Stage), lastLines(logEnd(ctx, i, guest, id, status)))
		}
		return inspect(ctx, i, s, guest)
	}
}

func startJob(ctx context.Context, i orchestrator.Installer, v orchestrator.Vault, s *orchestrator.Step, guest orchestrator.Guest, id string) (orchestrator.Outcome, error) {
	key, err := v.Open(s.Machine.ID, orchestrator.SealedHostKey, s.Machine.HostKeySecret)
	if err != nil {
		return orchestrator.Outcome{}, err
	}
	job := orchestrator.Job{ID: id, Hostname: s.Machine.Hostname, SSHKeys: s.Machine.SSHKeys, HostKeySecret: key}
	if sealed := s.Machine.AdministratorPassword; len(sealed) > 0 {
		if job.AdministratorPassword, err = v.Open(s.Machine.ID, orchestrator.SealedAdmin, sealed); err != nil {
			return orchestrator.Outcome{}, err
		}
	}
	err = i.EnsureJob(ctx, guest, job)
	if err != nil {
		return orchestrator.Outcome{}, err
	}
	return orchestrator.WaitFor("", time.Second, "post-install has been started")
}

// inspect runs the entry's checks; a guest that fails one is not handed over.
func inspect(ctx context.Context, i orchestrator.Installer, s *orchestrator.Step, guest orchestrator.Guest) (orchestrator.Outcome, error) {
	guest.Own = true
	found, err := i.Inspect(ctx, guest)
	if err != nil {
		return orchestrator.Outcome{}, err
	}
	var bad []string
	for name, result := range found.Checks {
		if result != "ok" {
			bad = append(bad, name+": "+result)
		}
	}
	if len(bad) > 0 {
		sort.Strings(bad)
		failed := orchestrator.Errorf("post_install", orchestrator.Permanent, "the finished guest fails its checks: %s", strings.Join(bad, "; "))
		if err := s.Check(ctx, failed); err != nil {
			return orchestrator.Outcome{}, err
		}
	}
	if found.Identity == "" {
		return orchestrator.Outcome{}, orchestrator.Errorf("post_install", orchestrator.Permanent, "the finished guest has no identity: neither a machine-id nor a SID")
	}
	if err := s.Record(ctx, handleID, found.Identity); err != nil {
		return orchestrator.Outcome{}, err
	}
	return leave(ctx, i, s, guest, found.Identity)
}

// leave takes our own way in out of the guest, which is the customer's from now on.
func leave(ctx context.Context, i orchestrator.Installer, s *orchestrator.Step, guest orchestrator.Guest, identity string) (orchestrator.Outcome, error) {
	guest.Own = true
	if err := i.Leave(ctx, guest); err != nil {
		return orchestrator.Outcome{}, err
	}
	s.Machine.Identity = identity
	return orchestrator.Finished("checks passed, identity %s", identity)
}

// logEnd reads on to the end of an exited job's log, as far as that goes quickly.
func logEnd(ctx context.Context, i orchestrator.Installer, guest orchestrator.Guest, id string, status orchestrator.JobStatus) []byte {
	const enough = 64
	tail := status.Log
	for range enough {
		next, err := i.ObserveJob(ctx, guest, id, status.Offset)
		if err != nil || len(next.Log) == 0 {
			break
		}
		tail, status = append(tail[max(0, len(tail)-400):], next.Log...), next
	}
	return tail
}

func forgetJob(s *orchestrator.Step) {
	delete(s.Run.Handles, handleJob)
	delete(s.Run.Handles, handleOffset)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// lastLines is the end of a log, for the journal.
func lastLines(log []byte) string {
	if len(log) > 400 {
		log = log[len(log)-400:]
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(log), "?")), " ")
}
