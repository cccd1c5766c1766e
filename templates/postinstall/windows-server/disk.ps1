#requires -Version 5.1
# Extends the system volume over the rest of its disk, as diskpart's `extend` does. Safe to run again.
$ErrorActionPreference = 'Stop'

Update-HostStorageCache
$letter = $env:SystemDrive.Substring(0, 1)
$partition = Get-Partition -DriveLetter $letter
$size = Get-PartitionSupportedSize -DriveLetter $letter
$disk = Get-Disk -Number $partition.DiskNumber
# Less than this is alignment, not room.
$slack = 64mb
if ($size.SizeMax - $partition.Size -gt $slack) {
    Write-Output "extending $letter from $([math]::Floor($partition.Size / 1mb)) MiB to $([math]::Floor($size.SizeMax / 1mb)) MiB"
    Resize-Partition -DriveLetter $letter -Size $size.SizeMax
} else {
    Write-Output "$letter has all the room that it can take"
}
$behind = Get-Partition -DiskNumber $partition.DiskNumber | Where-Object { $_.Offset -gt $partition.Offset }
if ($behind -and $disk.LargestFreeExtent -gt 1gb) {
    Write-Output "disk: $([math]::Floor($disk.LargestFreeExtent / 1mb)) MiB lie behind partition $($behind[0].PartitionNumber), which stands after ${letter}: build the template with its recovery partition in front"
    exit 1
}
exit 0
