#requires -Version 5.1
# Sees that Windows is licensed, and asks for its activation when it is not. A template without a key, a key that is refused and a key
# server that does not answer are told apart: the first two end with 80, for no repetition changes them. An operator whose licenses come
# later replaces this file by one that exits 0.
$ErrorActionPreference = 'Stop'

function Get-License {
    Get-CimInstance -ClassName SoftwareLicensingProduct -Filter "ApplicationID='55c92734-d682-4d71-983e-d6ec3f16059f' AND PartialProductKey IS NOT NULL" |
        Select-Object -First 1
}

$license = Get-License
if (-not $license) {
    Write-Output 'license: Windows has no product key: put a volume key (GVLK or MAK) into the template'
    exit 80
}
$refused = $false
# It may have just started: the key server is found in DNS (_vlmcs._tcp), which needs the network.
for ($try = 1; $license.LicenseStatus -ne 1 -and $try -le 5; $try++) {
    [IO.File]::WriteAllText("$env:SLIPWAY_JOB\stage", "license: asking for activation, attempt $try of 5")
    try {
        Invoke-CimMethod -InputObject $license -MethodName Activate | Out-Null
        Invoke-CimMethod -InputObject (Get-CimInstance -ClassName SoftwareLicensingService) -MethodName RefreshLicenseStatus | Out-Null
        $why = ''
    } catch {
        $why = $_.Exception.Message.Trim()
        $status = $_.Exception.PSObject.Properties['StatusCode']
        if ($status) {
            $code = '0x{0:X8}' -f [uint32]$status.Value
            $why = "$code $why"
            # 0xC004Cxxx is what the activation server says of a key; other codes are about the way to a server, or its own state.
            $refused = $code -like '0xC004C*'
        }
        if ($refused) { break }
    }
    $license = Get-License
    if ($license.LicenseStatus -ne 1 -and $try -lt 5) { Start-Sleep -Seconds 20 }
}
if ($license.LicenseStatus -ne 1) {
    $state = @('unlicensed', 'licensed', 'in its first grace period', 'in a grace period after a change', 'not genuine', 'in notification mode', 'in an extended grace period')[$license.LicenseStatus]
    Write-Output "license: $($license.Name) with the key *-$($license.PartialProductKey) is ${state}: $why"
    if ($refused) {
        Write-Output 'license: the key is refused: put one that is valid for this edition, and has activations left, into the template; then retry'
        exit 80
    }
    Write-Output 'license: see that the key server answers from this network (slmgr /skms HOST, or _vlmcs._tcp in DNS) and that it has this edition; then retry'
    exit 1
}
Write-Output "$($license.Name) is licensed"
exit 0
