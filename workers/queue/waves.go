package queue

// Waves cuts messages into runs in which no key appears twice, so that a backend may send one run without waiting in between and still
// confirm each message of a key before the next is sent. Order is kept; a run has at most limit messages.
func Waves(messages []Message, limit int) [][]Message {
	var waves [][]Message
	seen := map[string]bool{}
	first := 0
	for i, m := range messages {
		if i-first == limit || (m.Key != "" && seen[m.Key]) {
			waves = append(waves, messages[first:i])
			first = i
			clear(seen)
		}
		seen[m.Key] = true
	}
	if first < len(messages) {
		waves = append(waves, messages[first:])
	}
	return waves
}
