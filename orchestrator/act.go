package orchestrator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
)

// Act is one line of the operators' audit trail: who did what to what, and why. Lines are numbered without a gap and each carries the hash
// of itself and of the line before, so that nobody changes, removes or slips in one without every later hash being another.
type Act struct {
	ID      int64
	At      time.Time // the database's, to the microsecond
	Actor   string
	Verb    string
	Subject string
	Reason  string
	Hash    string // hex; "" for a line from before there was a chain, which the first line after it covers
}

// ActHead is the newest line of the trail; the zero value is an empty one. Kept apart from the database, it shows later that nothing up to it
// was taken away or written anew.
type ActHead struct {
	ID   int64
	Hash string
}

// String is what an operator keeps: "412:9f86d0…".
func (h ActHead) String() string { return fmt.Sprintf("%d:%s", h.ID, h.Hash) }

// Trail is the operators' audit trail.
type Trail interface {
	// RecordAct journals what an operator does beside runs, such as applying a plan.
	RecordAct(ctx context.Context, actor, verb, subject, reason string) error
	// Acts reads up to limit lines after a number, oldest first, and the head of the same moment. A limit of 0 reads the head alone.
	Acts(ctx context.Context, after int64, limit int) ([]Act, ActHead, error)
}

// HashAfter is the line's hash when it follows one with the hash prev ("" for the first): SHA-256 in lower-case hex over the netstrings
// (length, colon, bytes, comma) of prev, number, microseconds since 1970, actor, verb, subject and reason.
func (a Act) HashAfter(prev string) string {
	h := sha256.New()
	for _, field := range []string{prev, strconv.FormatInt(a.ID, 10), strconv.FormatInt(a.At.UnixMicro(), 10), a.Actor, a.Verb, a.Subject, a.Reason} {
		fmt.Fprintf(h, "%d:%s,", len(field), field) // a hash takes everything
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Chain walks the trail from its first line in constant memory. The zero value stands before the first line.
type Chain struct {
	Head    ActHead // the last line that was followed
	chained bool    // lines carry hashes from here on
}

// Follow takes the next line. Its error names the first line that is missing or not what was written; the walk cannot go on after it.
func (c *Chain) Follow(a Act) error {
	hash := a.HashAfter(c.Head.Hash)
	switch {
	case a.ID <= c.Head.ID:
		return fmt.Errorf("line %d stands after line %d", a.ID, c.Head.ID)
	case c.chained && a.ID != c.Head.ID+1:
		return fmt.Errorf("line %d is missing: line %d is followed by line %d", c.Head.ID+1, c.Head.ID, a.ID)
	case a.Hash == "" && c.chained:
		return fmt.Errorf("line %d carries no hash: it was not written by slipway", a.ID)
	case a.Hash == "": // from before the chain, when numbers could have gaps
	case a.Hash != hash && !c.chained && c.Head.ID > 0:
		return fmt.Errorf("line %d does not fit what stands before it: it was changed, or a line before it was changed or removed", a.ID)
	case a.Hash != hash && !c.chained && a.ID > 1:
		return fmt.Errorf("line 1 is missing: the trail begins with line %d", a.ID)
	case a.Hash != hash:
		return fmt.Errorf("line %d is not what was written: its hash is %s, and should be %s", a.ID, a.Hash, hash)
	default:
		c.chained = true
	}
	c.Head = ActHead{ID: a.ID, Hash: hash}
	return nil
}

// End holds the last line against the head that the store keeps beside the lines.
func (c *Chain) End(head ActHead) error {
	switch {
	case head.ID > c.Head.ID:
		return fmt.Errorf("line %d is missing: the trail ends with line %d, its head is line %d", c.Head.ID+1, c.Head.ID, head.ID)
	case head.ID < c.Head.ID:
		return fmt.Errorf("line %d was not written by slipway: the trail's head is line %d", head.ID+1, head.ID)
	case head.Hash != "" && head.Hash != c.Head.Hash: // without a hash nothing was written since the chain was introduced
		return fmt.Errorf("the trail's head is not line %d as it stands", c.Head.ID)
	}
	return nil
}

// actPage is how many lines of the trail are in memory at once.
const actPage = 1000

// VerifyTrail reads the trail page by page, by a Trail's Acts or its like, and follows it to its end. Every head in expect, such as one
// that was kept apart, must be a line of it. The error names the first line that is missing or not what was written; the head is the last
// line that was followed.
func VerifyTrail(ctx context.Context, acts func(ctx context.Context, after int64, limit int) ([]Act, ActHead, error), expect ...ActHead) (ActHead, error) {
	var chain Chain
	for {
		page, head, err := acts(ctx, chain.Head.ID, actPage)
		if err != nil {
			return chain.Head, err
		}
		for _, a := range page {
			if err := chain.Follow(a); err != nil {
				return chain.Head, E("trail", Permanent, err)
			}
			for _, kept := range expect {
				if kept.ID == a.ID && kept.Hash != chain.Head.Hash {
					return chain.Head, Errorf("trail", Permanent, "line %d is not the one that was kept: the trail was written anew up to there", a.ID)
				}
			}
		}
		if len(page) > 0 {
			continue
		}
		if err := chain.End(head); err != nil {
			return chain.Head, E("trail", Permanent, err)
		}
		break
	}
	for _, kept := range expect {
		if kept.ID > chain.Head.ID {
			return chain.Head, Errorf("trail", Permanent, "line %d is missing, which was there when it was kept: the trail ends with line %d", kept.ID, chain.Head.ID)
		}
	}
	return chain.Head, nil
}
