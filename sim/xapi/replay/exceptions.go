package replay

import (
	"fmt"
	"strings"
)

// rule excepts exchanges wherever they stand.
type rule struct {
	reason  string
	applies func(*entry) bool
}

var rules = []rule{
	{"the text of PAM: the recording's stand-in says \"System error\"", func(e *entry) bool {
		return e.hasError && e.Error.Message == "SESSION_AUTHENTICATION_FAILED" && len(e.Error.Data) == 2 && e.Error.Data[1] == "System error"
	}},
	{"the simulator lists the messages of its own classes", func(e *entry) bool { return e.Method == "system.listMethods" }},
}

// exceptions are single exchanges by recording and position.
var exceptions = map[string]map[int]string{
	"storage_1": {61: artefact},
	"sessions": {
		13: "the recording's stand-in for PAM takes any user", 15: "the recording's stand-in for PAM takes any user",
		69: surroundings, 88: surroundings,
	},
	"hvm_life_cycle": merge(
		span(105, 105, "xenopsd's simulator lost the disk of a rebooting VM"),
		map[int]string{
			115: lost, 126: lost, 127: lost, 128: lost,
			4: "memory_free is the hypervisor simulator's",
		}),
	"pv_life_cycle":           {85: "the recorded host had no address yet", 80: xenstore, 94: "memory_target of a running VM is 0 for xenopsd's simulator", 99: xenstore},
	"events_life_cycle":       {25: "the disk that it destroys was shown by the event loop only"},
	"restart":                 {25: surroundings, 27: "its token was noted outside of a call"},
	"tasks_concurrency":       merge(map[int]string{89: turns, 105: turns}, span(133, 161, "the recorder tried to slow the attaching of disks down, which its pool never does")),
	"tasks_start_in_progress": span(65, 68, "the call that its client gave up is not in the recording"),
	"http_handlers": merge(
		map[int]string{51: "the uuid is shown after the exchange only", 69: outside, 71: outside, 72: outside, 76: outside},
		span(78, 98, bodiless), span(102, 112, bodiless)),
	"events_semantics": merge(span(17, 18, unseen), span(31, 35, unseen), map[int]string{39: unseen, 47: unseen, 63: unseen}),
}

const (
	turns        = "shows in which order waiting calls had their turn, which is chance"
	artefact     = "an artefact of the recorder's storage driver"
	surroundings = "lists what else was in the recorded pool"
	lost         = "follows from the disk that xenopsd's simulator lost"
	xenstore     = "xenopsd's simulator forgets xenstore data"
	bodiless     = "the request's body is not in the recording, and this is or follows from that request"
	outside      = "its task was made outside of the recording"
	unseen       = "needs a change that the recorder made outside of the recording"
)

func span(first, last int, reason string) map[int]string {
	out := map[int]string{}
	for i := first; i <= last; i++ {
		out[i] = reason
	}
	return out
}

func merge(maps ...map[int]string) map[int]string {
	out := map[int]string{}
	for _, m := range maps {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

func others(m map[string]any, key string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		if k != key {
			out[k] = v
		}
	}
	return out
}

// ignored are the fields whose values are the recorded machine's, not xapi's.
var ignored = map[string][]string{
	"host": {"name_label", "name_description", "hostname", "software_version", "cpu_info", "host_CPUs", "cpu_configuration", "logging", "license_params", "address", "other_config", "edition", "features", "bios_strings", "capabilities", "PIFs", "PBDs", "resident_VMs", "last_software_update", "certificates", "editions", "suspend_image_sr", "crash_dump_sr"},
	"pool": {"restrictions", "cpu_info", "other_config", "telemetry_next_collection"},
}

// prune takes out what is chance or the recorded machine's.
func prune(method string, v any) any {
	class, op, _ := strings.Cut(method, ".")
	if m, ok := v.(map[string]any); ok && op == "get_record" {
		return pruneRecord(class, m)
	}
	if m, ok := v.(map[string]any); ok && strings.HasPrefix(op, "get_all_records") {
		out := make(map[string]any, len(m))
		for k, rec := range m {
			if r, ok := rec.(map[string]any); ok {
				rec = pruneRecord(class, r)
			}
			out[k] = rec
		}
		return out
	}
	if method == "VM.get_domid" {
		return fmt.Sprint(v) == "-1"
	}
	return v
}

func pruneRecord(class string, m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	for _, k := range ignored[class] {
		delete(out, k)
	}
	switch class {
	case "task": // how far it was when it was asked, and how many places of the code it passed
		if out["status"] == "pending" {
			delete(out, "progress")
		}
		if other, ok := out["other_config"].(map[string]any); ok {
			out["other_config"] = others(other, "debug_info:cancel_points_seen")
		}
	case "VM":
		out["domid"] = fmt.Sprint(out["domid"]) == "-1"
		delete(out, "snapshot_metadata")
	}
	return out
}
