package xapi

import (
	"fmt"
	"html"
	"net/http"
	"strings"
)

// bulkHandler is one of the HTTP handlers that carry whole VMs and disks. Who may not use one, and what it cannot find, is answered as by
// xapi; the transfer itself is not simulated.
type bulkHandler struct{ method, realm, class string }

var bulkHandlers = map[string]bulkHandler{
	"/export":          {http.MethodGet, "get_export", "VM"},
	"/export_metadata": {http.MethodGet, "get_export_metadata", "VM"},
	"/export_raw_vdi":  {http.MethodGet, "get_export_raw_vdi", "VDI"},
	"/import":          {http.MethodPut, "put_import", ""},
	"/import_raw_vdi":  {http.MethodPut, "put_import_raw_vdi", "VDI"},
}

// bulk answers a request to one of the handlers; false when there is none for it.
func (s *Server) bulk(w http.ResponseWriter, r *http.Request) bool {
	h, ok := bulkHandlers[r.URL.Path]
	if !ok || h.method != r.Method {
		return false
	}
	query := r.URL.Query()
	if !s.consoleLogin(r, query.Get("session_id")) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf("Basic realm=%q", h.realm))
		page(w, http.StatusUnauthorized, "<html><body><h1>HTTP 401 unauthorised</h1>Please check your credentials and retry.</body></html>")
		return true
	}
	problem := "this transfer is not simulated"
	if h.class != "" {
		if p := s.bulkObject(h.class, query.Get("uuid"), query.Get("ref")+query.Get("vdi"), query.Get("task_id")); p != "" {
			problem = p
		}
	}
	page(w, http.StatusInternalServerError, fmt.Sprintf(serverPage, html.EscapeString(problem)))
	return true
}

// bulkObject says what is wrong with the object of a transfer. Only a VM in the wrong state ends the task; for an unknown object the task
// that was given stays pending for ever, as it does on a real pool.
func (s *Server) bulkObject(class, uuid, ref, task string) string {
	s.mu.Lock()
	defer s.unlock()
	db := s.db
	o := db.tables[db.class(class)].byUUID[uuid]
	if o == nil {
		o = db.get(class, ref)
	}
	if o == nil {
		return fmt.Sprintf(`Db_exn.Read_missing_uuid("%s", "", "%s")`, class, uuid+ref)
	}
	if class != "VM" {
		return ""
	}
	err := inState(o, Halted, Suspended)
	if err == nil {
		return ""
	}
	f := err.(*failure)
	if t := db.get("task", task); t != nil {
		c := call{s: s, ctx: s.operations, task: t}
		c.finish(nil, err)
	}
	return f.code + ": [ " + strings.Join(f.params, "; ") + " ]"
}
