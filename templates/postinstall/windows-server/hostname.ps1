#requires -Version 5.1
# Names the computer; a new name needs a restart. Safe to run again.
#
# Reads: params.computer (at most 15 characters), params.suffix (may be empty)
$ErrorActionPreference = 'Stop'
$params = Get-Content -Raw -LiteralPath "$env:SLIPWAY_JOB\params.json" | ConvertFrom-Json

$tcpip = 'HKLM:\SYSTEM\CurrentControlSet\Services\Tcpip\Parameters'
foreach ($name in 'Domain', 'NV Domain') {
    Set-ItemProperty -LiteralPath $tcpip -Name $name -Value $params.suffix -Type String
}
# What it is called from the next start on.
$next = (Get-ItemProperty -LiteralPath 'HKLM:\SYSTEM\CurrentControlSet\Control\ComputerName\ComputerName').ComputerName
if ($next -ne $params.computer) {
    Rename-Computer -NewName $params.computer -Force -WarningAction SilentlyContinue | Out-Null
    Write-Output "the computer is called $($params.computer) after a restart"
    exit 3010
}
if ($env:COMPUTERNAME -ne $params.computer) {
    exit 3010
}
Write-Output "the computer is called $($params.computer)"
exit 0
