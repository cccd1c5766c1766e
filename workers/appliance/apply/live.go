package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sort"
)

// MaxLive bounds, in bytes, the contents that one Live carries: 250,000 host blocks. What holds more is not shown.
const MaxLive = 32 << 20

// Live is what an appliance has for a unit when it is asked with Request.ReadOnly. It is as secret as the files are.
type Live struct {
	Files []LiveFile `json:"files"` // one for each file of the unit, in the order of names, whether it is there or not
	Rows  int        `json:"rows"`  // machines in it: by what was last applied and by the files, whichever is more
	// Fault is why what runs is not what the files say, "" when it is (or when there is no service to ask).
	Fault string `json:"fault,omitempty"`
	// Interrupted is the generation of an apply that ended in the middle and that the next one puts right first, 0 when there is none.
	Interrupted int64 `json:"interrupted,omitempty"`
	// Shrinks is what the shrink guard would say to Request.Rows, "" when it lets them through.
	Shrinks string `json:"shrinks,omitempty"`
}

// LiveFile is one file as it lies on the appliance.
type LiveFile struct {
	Name   string `json:"name"` // as in a Request
	Exists bool   `json:"exists"`
	SHA256 string `json:"sha256,omitempty"` // of the bytes; Content has lost those that are no UTF-8
	Mode   uint32 `json:"mode,omitempty"`   // permission bits, and
	Want   uint32 `json:"want,omitempty"`   // those that it should have
	// Content may hold secrets.
	Content string `json:"content,omitempty"`
}

// String leaves the content out, so that a log line cannot carry it.
func (f LiveFile) String() string {
	return fmt.Sprintf("%s exists=%t sha256=%s mode=%04o", f.Name, f.Exists, f.SHA256, f.Mode)
}

// GoString is String.
func (f LiveFile) GoString() string { return f.String() }

// SumLive is the hex SHA-256 over what lies in a unit's places: names, presence, modes and the hashes of the contents.
func SumLive(files []LiveFile) string {
	sorted := append([]LiveFile(nil), files...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Name < sorted[j].Name })
	h := sha256.New()
	for _, f := range sorted {
		_, _ = fmt.Fprintf(h, "%d:%s %t %04o %s\n", len(f.Name), f.Name, f.Exists, f.Mode, f.SHA256) // a hash never fails to write
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Digest is the hex SHA-256 of one file's content, as LiveFile.SHA256 has it.
func Digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}
