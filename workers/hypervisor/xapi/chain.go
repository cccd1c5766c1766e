package xapi

import "context"

const (
	// keyParent is where the storage manager of XenServer and XCP-ng names the disk that a VHD is a difference to, by uuid
	// (VDI.sm_config, written by its LVM and file drivers). Storage without VHDs has no such key, and no chains.
	keyParent = "vhd-parent"
	// maxChain is the length from which a template is copied in full instead of being linked to. The drivers refuse the thirty-first
	// link; customers' snapshots and backups want the rest.
	maxChain = 20
)

// chain is the number of disks that the longest of a template's disks is made of, 1 when it stands alone. It stops to count at maxChain.
func (p *pool) chain(ctx context.Context, t stored) (int, error) {
	longest := 1
	for _, disk := range t.disks {
		length, rec := 1, disk
		for parent := rec.SMConfig[keyParent]; isUUID(parent) && length < maxChain; parent = rec.SMConfig[keyParent] {
			var ref Ref
			err := p.client.Call(ctx, "VDI.get_by_uuid", &ref, parent)
			if err == nil {
				rec = vdiRecord{}
				err = p.client.Call(ctx, "VDI.get_record", &rec, ref)
			}
			if HasCode(err, codeUUIDInvalid) || HasCode(err, codeHandleInvalid) {
				break // coalesced meanwhile
			}
			if err != nil {
				return 0, err
			}
			length++
		}
		longest = max(longest, length)
	}
	return longest, nil
}
