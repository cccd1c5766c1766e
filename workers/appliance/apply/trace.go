package apply

// MaxTrace bounds the lines of a Trace; each has MaxText bytes at most.
const MaxTrace = 5

// Trace is what a server's log says of one hardware address: asked for by Request.Trace. The lines are the server's, with words of whoever
// has asked it; they are for people to read, and prove nothing by themselves.
type Trace struct {
	Lines []string `json:"lines,omitempty"` // the last ones, oldest first
	Count int      `json:"count"`           // of all lines about it
	Read  int      `json:"read"`            // lines that were looked through: what is older is not known
}
