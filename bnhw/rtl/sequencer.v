// The loop nest: fetches descriptors, counts through output pixels, blocks and taps, and issues one read a cycle for the
// array or lanes (main) and one for the operand, with all addresses made by additions. Stage 0 of the pipeline.
// A step's first cycle is FETCH, its last the one of its last write, in which `step_done` is 1.
`include "descriptor.vh"
module sequencer #(
    parameter PE = 4,
    parameter SIMD = 16,
    parameter ACT_BITS = 4,
    parameter RESIDUAL_BITS = 16,
    parameter RESIDUAL_PORTS = 1      // read ports of the residual memory
) (
    input clk,
    input reset,
    input start,
    input finished,               // the step's last word is written in this cycle
    output idle,
    output loading,               // the descriptor stands in descriptor_word
    output step_done,
    output done,
    output descriptor_read,
    output [23:0] descriptor_address,
    input [`DESCRIPTOR_BITS-1:0] descriptor_word,
    output reg [`DESCRIPTOR_BITS-1:0] descriptor,
    output main_issue,
    output main_read,             // something is read: not at padded taps, nor in blocks outside the tensor
    output main_first,            // the interval's first value
    output main_value,            // all planes of a value are read with this one
    output main_in_image,           // the tap lies in the image
    output [15:0] main_lanes,     // lanes that hold channels of the tensor
    output [15:0] main_bank,
    output main_plane_first,
    output [5:0] main_shift,      // place of the plane
    output [23:0] main_address,
    output [23:0] weight_address,
    output operand_issue,
    output operand_plane_first,
    output [5:0] operand_shift,
    output [15:0] operand_bank,
    output [23:0] operand_address,
    output tick,                  // the interval's last cycle
    output [23:0] constant_address,
    output class_read,            // once a pixel
    output [23:0] class_address
);
    localparam [2:0] IDLE = 0, FETCH = 1, LOAD = 2, RUN = 3, FINISH = 4;
    localparam BANKS = SIMD / PE;

    reg [2:0] state;
    reg [23:0] step_address;
    assign idle = state == IDLE;
    assign loading = state == LOAD;
    wire running = state == RUN;
    assign step_done = state == FINISH && finished;
    assign done = step_done && descriptor[`LAST_STEP];

    // ---- what the current cycle is the last of
    reg main_busy, operand_busy;
    reg [15:0] block, word, kernel_row, kernel_column, out_row, out_column, elapsed;
    reg phase;
    reg [5:0] plane, operand_plane;
    wire convolve = descriptor[`MAIN] == 2'd0;
    wire [15:0] words = descriptor[`BLOCK_TABLE] ? descriptor_word[`ENTRY_WORDS] : descriptor[`WORDS];
    wire [15:0] first_word = descriptor[`BLOCK_TABLE] ? descriptor_word[`ENTRY_FIRST_WORD] : 16'd0;
    wire plane_end = plane == descriptor[`PLANES];
    wire word_end = plane_end && word == words;
    wire column_end = word_end && kernel_column == descriptor[`KERNEL_COLUMNS];
    wire row_end = column_end && kernel_row == descriptor[`KERNEL_ROWS];
    wire main_end = main_issue && row_end && phase == descriptor[`PHASES];
    wire same_port = descriptor[`MAIN_MEMORY] == descriptor[`OPERAND_MEMORY]
        && !(descriptor[`MAIN_MEMORY] && RESIDUAL_PORTS == 2);
    wire operand_end = operand_issue && operand_plane == descriptor[`OPERAND_PLANES];
    wire block_last = block == descriptor[`BLOCKS];
    wire out_column_last = out_column == descriptor[`OUT_COLUMNS];
    wire pixel_last = out_column_last && out_row == descriptor[`OUT_ROWS];
    assign main_issue = running && main_busy;
    assign operand_issue = running && operand_busy && !(same_port && main_busy);
    assign tick = running && (!main_busy || main_end) && (!operand_busy || operand_end)
        && elapsed == descriptor[`MINIMUM];
    wire next_pixel = tick && block_last;

    // ---- states
    wire [23:0] first_entry = step_address + 24'd1;
    reg [23:0] entry_address;
    wire [23:0] next_entry = block_last ? first_entry : entry_address + 24'd1;
    assign descriptor_read = state == FETCH || (loading && descriptor_word[`BLOCK_TABLE])
        || (tick && descriptor[`BLOCK_TABLE] && !(next_pixel && pixel_last));
    assign descriptor_address = state == FETCH ? step_address : loading ? first_entry : next_entry;
    always @(posedge clk) begin
        if (reset) begin
            state <= IDLE;
            step_address <= 0;
        end else case (state)
            IDLE: if (start) begin
                state <= FETCH;
                step_address <= 0;
            end
            FETCH: state <= LOAD;
            LOAD: begin
                state <= RUN;
                descriptor <= descriptor_word;
                entry_address <= first_entry;
            end
            RUN: begin
                if (tick) entry_address <= next_entry;
                if (next_pixel && pixel_last) state <= FINISH;
            end
            FINISH: if (finished) begin
                state <= descriptor[`LAST_STEP] ? IDLE : FETCH;
                step_address <= step_address + {8'd0, descriptor[`STEP_WORDS]};
            end
            default: state <= IDLE;
        endcase
    end

    // ---- counters of the interval
    wire restart = loading || tick;
    always @(posedge clk) begin
        if (restart) elapsed <= 0;
        else if (elapsed != descriptor[`MINIMUM]) elapsed <= elapsed + 16'd1;
        if (restart) main_busy <= 1;
        else if (main_end) main_busy <= 0;
        if (loading) operand_busy <= descriptor_word[`OPERAND];
        else if (tick) operand_busy <= descriptor[`OPERAND];
        else if (operand_end) operand_busy <= 0;
        if (restart) begin
            plane <= 0;
            word <= 0;
            kernel_column <= 0;
            kernel_row <= 0;
            phase <= 0;
            operand_plane <= 0;
        end else begin
            if (main_issue) begin
                plane <= plane_end ? 6'd0 : plane + 6'd1;
                if (plane_end) word <= word_end ? 16'd0 : word + 16'd1;
                if (word_end) kernel_column <= column_end ? 16'd0 : kernel_column + 16'd1;
                if (column_end) kernel_row <= row_end ? 16'd0 : kernel_row + 16'd1;
                if (row_end) phase <= 1;
            end
            if (operand_issue) operand_plane <= operand_plane + 6'd1;
        end
    end

    // ---- counters of blocks and pixels
    always @(posedge clk) begin
        if (loading) begin
            block <= 0;
            out_column <= 0;
            out_row <= 0;
        end else if (tick) begin
            block <= block_last ? 16'd0 : block + 16'd1;
            if (block_last) out_column <= out_column_last ? 16'd0 : out_column + 16'd1;
            if (block_last && out_column_last) out_row <= out_row + 16'd1;
        end
    end

    // ---- address and image position of the tap: of the row of pixels, the pixel, the tap's row, the tap
    reg [23:0] row_origin, pixel_origin, tap_row, tap, read_address;
    reg [16:0] row_first, column_first, row, column;
    wire [23:0] next_row_origin = row_origin + descriptor[`OUT_ROW_STEP];
    wire [16:0] next_row_first = row_first + {1'b0, descriptor[`STRIDE_ROWS]};
    wire [23:0] next_origin = loading ? descriptor_word[`READ_BASE] : !block_last ? pixel_origin
        : out_column_last ? next_row_origin : pixel_origin + descriptor[`OUT_COLUMN_STEP];
    wire [16:0] next_column_first = loading ? descriptor_word[`COLUMN_FIRST] : !block_last ? column_first
        : out_column_last ? descriptor[`COLUMN_FIRST] : column_first + {1'b0, descriptor[`STRIDE_COLUMNS]};
    wire [16:0] start_row = loading ? descriptor_word[`ROW_FIRST]
        : block_last && out_column_last ? next_row_first : row_first;
    wire [23:0] next_tap_row = tap_row + descriptor[`ROW_STEP];
    wire [23:0] next_tap = tap + descriptor[`COLUMN_STEP];
    always @(posedge clk) begin
        if (restart) begin
            row_first <= start_row;
            row <= start_row;
            column_first <= next_column_first;
            column <= next_column_first;
            pixel_origin <= next_origin;
            tap_row <= next_origin;
            tap <= next_origin;
            read_address <= next_origin;
            if (loading || (block_last && out_column_last)) row_origin <= next_origin;
        end else if (main_issue) begin
            if (row_end) begin
                row <= row_first;
                column <= column_first;
                tap_row <= pixel_origin;
                tap <= pixel_origin;
                read_address <= pixel_origin;
            end else if (column_end) begin
                row <= row + 17'd1;
                column <= column_first;
                tap_row <= next_tap_row;
                tap <= next_tap_row;
                read_address <= next_tap_row;
            end else if (word_end) begin
                column <= column + 17'd1;
                tap <= next_tap;
                read_address <= next_tap;
            end else read_address <= read_address + 24'd1;
        end
    end
    assign main_in_image = row < {1'b0, descriptor[`IN_ROWS]} && column < {1'b0, descriptor[`IN_COLUMNS]};

    // ---- the block of the tensor that lanes read, and of the operand: bank and offset behind the pixel's address
    reg [16:0] source_block;
    reg [23:0] source_offset, operand_offset, operand_pixel;
    reg [15:0] source_bank, operand_block_bank;
    wire source_there = source_block <= {1'b0, descriptor[`LAST_WORD]};
    wire source_bank_last = descriptor[`MAIN_MEMORY] || source_bank == BANKS[15:0] - 16'd1;
    wire operand_bank_last = descriptor[`OPERAND_MEMORY] || operand_block_bank == BANKS[15:0] - 16'd1;
    always @(posedge clk) begin
        if (loading || next_pixel) begin
            source_block <= loading ? -{1'b0, descriptor_word[`SOURCE_BEFORE]} : -{1'b0, descriptor[`SOURCE_BEFORE]};
            source_offset <= 0;
            source_bank <= 0;
            operand_offset <= 0;
            operand_block_bank <= 0;
            operand_pixel <= loading ? descriptor_word[`OPERAND_BASE] : operand_pixel + descriptor[`OPERAND_STEP];
        end else if (tick) begin
            source_block <= source_block + 17'd1;
            if (source_there) begin
                source_bank <= source_bank_last ? 16'd0 : source_bank + 16'd1;
                if (source_bank_last) source_offset <= source_offset + {18'd0, descriptor[`PLANES]} + 24'd1;
            end
            operand_block_bank <= operand_bank_last ? 16'd0 : operand_block_bank + 16'd1;
            if (operand_bank_last) operand_offset <= operand_offset + {18'd0, descriptor[`OPERAND_PLANES]} + 24'd1;
        end
    end
    assign main_address = read_address + (!convolve ? source_offset
        : descriptor[`BLOCK_TABLE] ? descriptor_word[`ENTRY_OFFSET] : 24'd0);
    assign main_bank = source_bank;
    assign operand_address = operand_pixel + operand_offset + {18'd0, operand_plane};
    assign operand_bank = operand_block_bank;

    // ---- flags of the read
    assign main_read = main_issue && main_in_image && (convolve || source_there);
    wire first_tap = kernel_row == 0 && kernel_column == 0 && !phase;
    wire word_last = first_word + word == descriptor[`LAST_WORD];
    assign main_plane_first = plane == 0;
    assign main_first = first_tap && (!convolve || (word == 0 && plane == 0));
    assign main_value = convolve || plane_end;
    assign main_lanes = convolve ? (word_last ? descriptor[`LAST_LANES] : SIMD[15:0])
        : !source_there || !main_in_image ? 16'd0
        : source_block == {1'b0, descriptor[`LAST_WORD]} ? descriptor[`LAST_LANES] : PE[15:0];
    reg [5:0] shift, operand_place;
    assign main_shift = shift;
    assign operand_shift = operand_place;
    assign operand_plane_first = operand_plane == 0;
    always @(posedge clk) begin
        if (restart || plane_end) shift <= 0;
        else if (main_issue) shift <= shift + (descriptor[`MAIN_MEMORY] ? RESIDUAL_BITS[5:0] : ACT_BITS[5:0]);
        if (restart) operand_place <= 0;
        else if (operand_issue)
            operand_place <= operand_place + (descriptor[`OPERAND_MEMORY] ? RESIDUAL_BITS[5:0] : ACT_BITS[5:0]);
    end

    // ---- weights, constants, position classes
    reg [23:0] weight, constant, class_place;
    assign weight_address = weight;
    assign constant_address = constant;
    assign class_address = class_place;
    assign class_read = tick && block == 0 && descriptor[`CLASSES];
    always @(posedge clk) begin
        if (loading) weight <= descriptor_word[`WEIGHT_BASE];
        else if (next_pixel) weight <= descriptor[`WEIGHT_BASE];
        else if (main_issue && plane_end) weight <= weight + 24'd1;
        if (loading) constant <= descriptor_word[`CONSTANT_BASE];
        else if (next_pixel) constant <= descriptor[`CONSTANT_BASE];
        else if (tick) constant <= constant + descriptor[`CONSTANT_STEP];
        if (loading) class_place <= descriptor_word[`CLASS_BASE];
        else if (next_pixel) class_place <= class_place + 24'd1;
    end
endmodule
